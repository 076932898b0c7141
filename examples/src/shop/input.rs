//! Input and its validation.

use serde::Deserialize;

const LONGEST_TEXT: usize = 100;
const MOST_CENTS: i64 = 100_000_000;

/// An invalid field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: &'static str,
    pub problem: &'static str,
}

#[derive(Clone, Debug, Deserialize)]
pub struct NewUser {
    pub name: String,
}

impl NewUser {
    pub fn checked(self) -> Result<Self, Invalid> {
        let name = text("name", &self.name)?;
        Ok(Self { name })
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct NewOrder {
    pub user_id: i64,
    pub item: String,
    pub cents: i64,
}

impl NewOrder {
    pub fn checked(self) -> Result<Self, Invalid> {
        Ok(Self {
            user_id: self.user_id,
            item: text("item", &self.item)?,
            cents: amount("cents", Some(self.cents))?,
        })
    }
}

/// The submitted form of the page.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Form {
    pub name: String,
    pub item: String,
    pub price: String,
}

/// A valid form: an order, and the name of an existing or new user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub name: String,
    pub item: String,
    pub cents: i64,
}

impl Form {
    pub fn checked(&self) -> Result<Wish, Invalid> {
        Ok(Wish {
            name: text("name", &self.name)?,
            item: text("item", &self.item)?,
            cents: amount("price", cents(self.price.trim()))?,
        })
    }
}

fn text(field: &'static str, given: &str) -> Result<String, Invalid> {
    let given = given.trim();
    let problem = if given.is_empty() {
        "must not be empty"
    } else if given.chars().count() > LONGEST_TEXT {
        "is too long"
    } else if given.chars().any(char::is_control) {
        // Postgres rejects NUL in texts.
        "must not have control characters"
    } else {
        return Ok(given.to_owned());
    };
    Err(Invalid { field, problem })
}

fn amount(field: &'static str, given: Option<i64>) -> Result<i64, Invalid> {
    let problem = match given {
        None => "must be an amount like 12.50",
        Some(..=0) => "must be more than zero",
        Some(cents) if cents > MOST_CENTS => "is too much",
        Some(cents) => return Ok(cents),
    };
    Err(Invalid { field, problem })
}

/// `12`, `12.5` or `12.50`.
fn cents(price: &str) -> Option<i64> {
    let (whole, fraction) = price.split_once('.').unwrap_or((price, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 2 {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<2}").parse().ok()?;
    whole.checked_mul(100)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_becomes_cents() {
        let table = [
            ("12", Some(1200)),
            ("12.5", Some(1250)),
            ("12.50", Some(1250)),
            ("0.05", Some(5)),
            ("12.505", None),
            ("12.", None),
            (".5", None),
            ("-1", None),
            ("1e3", None),
            ("", None),
            ("99999999999999999999", None),
            ("9223372036854775807", None),
        ];
        for (price, expected) in table {
            assert_eq!(cents(price), expected, "{price:?}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_field() {
        let order = |item: &str, cents| NewOrder {
            user_id: 1,
            item: item.to_owned(),
            cents,
        };
        let long = "x".repeat(LONGEST_TEXT + 1);
        let table = [
            (order(" ", 1), Some("item")),
            (order(&long, 1), Some("item")),
            (order("a\0b", 1), Some("item")),
            (order("tea", 0), Some("cents")),
            (order("tea", -1), Some("cents")),
            (order("tea", MOST_CENTS + 1), Some("cents")),
            (order(" tea ", 1), None),
        ];
        for (order, expected) in table {
            let field = order.clone().checked().err().map(|invalid| invalid.field);
            assert_eq!(field, expected, "{order:?}");
        }
    }
}
