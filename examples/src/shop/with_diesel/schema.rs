diesel::table! {
    shop.users (id) {
        id -> BigInt,
        name -> Text,
    }
}

diesel::table! {
    shop.orders (id) {
        id -> BigInt,
        user_id -> BigInt,
        item -> Text,
        cents -> BigInt,
    }
}

diesel::joinable!(orders -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(orders, users);
