//! Cleans text of servers, programs and users before it gets into an error, a log or a terminal.

use std::error::Error as StdError;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// Most characters of a foreign text.
const LONGEST: usize = 500;
const MASK: &str = "***";
/// The prefixes of the platform's secrets.
const PREFIXES: &[&str] = &["dapi", "dose", "dkea", "dsapi"];

/// Masks these secrets, and then cleans the text: see [`clean_text`].
pub(crate) fn clean(text: &str, secrets: &[SecretString]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(ExposeSecret::expose_secret) {
        if !secret.is_empty() {
            text = text.replace(secret, MASK);
        }
    }
    clean_text(&text)
}

/// Cleans a text of a server, another program or a certificate before it is printed. It replaces control characters and characters
/// that change the direction of text by spaces, masks words that look like tokens by `***`, and cuts the text to 500 characters.
///
/// The texts of [`Error`](crate::error::Error) are clean, except messages and sources that the application supplies.
pub fn clean_text(text: &str) -> String {
    // Masks before it cuts, so that no part of a token remains.
    let masked = mask_tokens(text);
    let mut shown: String = masked
        .chars()
        .take(LONGEST)
        .map(|c| if is_harmful(c) { ' ' } else { c })
        .collect();
    if masked.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown.trim().to_owned()
}

fn mask_tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c);
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        masked.push_str(before);
        match secret_start(word) {
            Some(start) => masked.extend([&word[..start], MASK]),
            None => masked.push_str(word),
        }
        rest = after;
    }
    masked.push_str(rest);
    masked
}

/// Whether a value looks like a token or another secret of the platform.
pub(crate) fn is_secret_like(value: &str) -> bool {
    secret_start(value.trim()).is_some()
}

/// The start of a token in a word: of a JWT (`eyJ`), or of a prefix of the platform's secrets that is followed by at least eight
/// characters, including a digit.
fn secret_start(word: &str) -> Option<usize> {
    let jwt = word.find("eyJ").filter(|start| word.len() - start >= 16);
    let prefixed = PREFIXES.iter().filter_map(|prefix| {
        let start = word.find(prefix)?;
        let rest = &word[start + prefix.len()..];
        (rest.len() >= 8 && rest.contains(|c: char| c.is_ascii_digit())).then_some(start)
    });
    prefixed.chain(jwt).min()
}

/// Whether the text contains characters that control a terminal or change the direction of text.
pub(crate) fn has_harmful(text: &str) -> bool {
    text.contains(is_harmful)
}

pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The cleaned texts of a foreign error and its causes.
#[derive(Debug)]
pub(crate) struct Cause {
    text: String,
    cause: Option<Box<Cause>>,
}

impl Cause {
    #[cfg(feature = "proxy")]
    pub(crate) fn new(text: &str, cause: Option<Self>) -> Self {
        Self {
            text: clean_text(text),
            cause: cause.map(Box::new),
        }
    }

    pub(crate) fn of(error: &(dyn StdError + 'static), secrets: &[SecretString]) -> Self {
        Self {
            text: clean(&error.to_string(), secrets),
            cause: error
                .source()
                .map(|cause| Box::new(Self::of(cause, secrets))),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_words_that_look_like_tokens_are_masked() {
        let known = [SecretString::from("hush hush")];
        for (text, expected) in [
            ("you sent hush hush!", "you sent ***!"),
            ("Bearer eyJhbGciOiJSUzI1NiJ9.e30.x", "Bearer ***"),
            ("token=dapi0123456789abcdef", "token=***"),
            ("secret:dose0123456789abcdef-2,", "secret:***,"),
            ("/x/eyJhbGciOiJSUzI1NiJ9", "/x/***"),
            ("dosemeters and dapifiers", "dosemeters and dapifiers"),
            ("eyJ", "eyJ"),
            ("", ""),
        ] {
            assert_eq!(clean(text, &known), expected, "{text:?}");
        }
    }

    #[test]
    fn control_and_direction_characters_are_replaced() {
        for text in [
            "\u{1b}[2J\u{1b}[H ok",
            "\u{9b}2J ok",
            "a\r\nok",
            "\u{202e}ok",
            "o\u{200b}k",
            "\u{2067}ok",
            "a\u{0}ok",
        ] {
            let shown = clean_text(text);
            assert!(!shown.chars().any(is_harmful), "{text:?}: {shown:?}");
        }
    }

    #[test]
    fn tokens_are_masked_before_the_text_is_cut() {
        let token = format!("eyJ{}", "a".repeat(2000));
        assert_eq!(clean_text(&format!("x {token} y")), "x *** y");
        let long = clean_text(&"b ".repeat(2000));
        assert!(
            long.chars().count() <= LONGEST + 3 && long.ends_with("..."),
            "{long}"
        );
    }
}
