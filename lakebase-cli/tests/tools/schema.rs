// @generated automatically by Diesel CLI.

pub mod library {
    diesel::table! {
        library.authors (id) {
            id -> Int8,
            name -> Text,
        }
    }

    diesel::table! {
        library.books (id) {
            id -> Int8,
            author_id -> Int8,
            title -> Text,
            pages -> Nullable<Int4>,
        }
    }

    diesel::joinable!(books -> authors (author_id));

    diesel::allow_tables_to_appear_in_same_query!(authors, books,);
}
