//! Lists in pages.

use std::collections::HashMap;

use axum::Json;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use crate::reply::{Answer, Failure};

/// Query parameters.
pub(super) type Params = HashMap<String, String>;

/// Returns whether a flag is `true`.
pub(super) fn is_set(params: &Params, name: &str) -> bool {
    params.get(name).is_some_and(|value| value == "true")
}

/// One page of `items`, at most `longest`.
pub(super) fn page(key: &str, items: Vec<Value>, params: &Params, longest: usize) -> Answer {
    let number = |name: &str| -> Result<usize, Failure> {
        let text = params.get(name).filter(|text| !text.is_empty());
        let number = text.map_or(Ok(0), |text| text.parse());
        number.map_err(|_| Failure::invalid(format!("{name} is not valid")))
    };
    let (begin, size) = (number("page_token")?, number("page_size")?);
    let size = match size {
        0 => longest,
        size => size.min(longest),
    };
    let count = items.len();
    let items: Vec<Value> = items.into_iter().skip(begin).take(size).collect();
    let mut body = json!({});
    body[key] = items.into();
    if begin + size < count {
        body["next_page_token"] = (begin + size).to_string().into();
    }
    Ok(Json(body).into_response())
}
