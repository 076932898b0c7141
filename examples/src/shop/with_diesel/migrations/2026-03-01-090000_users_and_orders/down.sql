DROP TABLE shop.orders;
DROP TABLE shop.users;
