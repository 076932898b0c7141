CREATE SCHEMA IF NOT EXISTS app;
CREATE TABLE app.orders (id bigserial PRIMARY KEY, customer text NOT NULL, cents integer NOT NULL);
INSERT INTO app.orders (customer, cents)
VALUES ('Ada', 4200), ('Grace', 1995), ('Ada', 350), ('Edsger', 12000), ('Barbara', 800), ('Grace', 5);
