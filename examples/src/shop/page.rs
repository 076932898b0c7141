//! The page: a form for an order, and the latest orders. Maud escapes user input.

use std::fmt;

use maud::{DOCTYPE, Markup, html};

use super::input::{Form, Invalid};
use super::views::Order;

/// The page with the submitted form and its invalid field.
pub fn shop(orders: &[Order], form: &Form, invalid: Option<Invalid>) -> Markup {
    let fields = [
        ("name", "Your name", &form.name),
        ("item", "Item", &form.item),
        ("price", "Price", &form.price),
    ];
    framed(html! {
        form method="post" action="/" {
            @for (field, label, value) in fields {
                p {
                    label for=(field) { (label) } " "
                    input id=(field) name=(field) value=(value);
                    @if let Some(invalid) = invalid.filter(|invalid| invalid.field == field) {
                        " " strong role="alert" { (field) " " (invalid.problem) }
                    }
                }
            }
            button { "Order" }
        }
        table {
            thead { tr { th { "No." } th { "User" } th { "Item" } th { "Price" } } }
            tbody {
                @for order in orders {
                    tr {
                        td { (order.id) }
                        td { (order.user.name) }
                        td { (order.item) }
                        td { (Price(order.cents)) }
                    }
                }
            }
        }
    })
}

/// The page of a failed request.
pub fn sorry(failure: &impl fmt::Display) -> Markup {
    framed(html! { p role="alert" { "Sorry: " (failure) "." } })
}

fn framed(content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Shop" }
                // Prevents a request for an icon.
                link rel="icon" href="data:,";
            }
            body { h1 { "Shop" } (content) }
        }
    }
}

struct Price(i64);

impl maud::Render for Price {
    fn render_to(&self, buffer: &mut String) {
        let Self(cents) = self;
        buffer.push_str(&format!("{}.{:02}", cents / 100, cents % 100));
    }
}
