//! Text that others wrote: the only way into an error, a log or a terminal.

use std::error::Error as StdError;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// Longest piece of foreign text that is repeated, in characters.
const LONGEST: usize = 500;
const MASK: &str = "***";
/// How the platform's secrets begin.
const PREFIXES: &[&str] = &["dapi", "dose", "dkea", "dsapi"];

/// Foreign text as it may be shown: on one line, without secrets (`secrets`, and whatever looks like a
/// token), without characters that control a terminal or change the direction of text, cut to 500
/// characters.
pub(crate) fn clean(text: &str, secrets: &[SecretString]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(ExposeSecret::expose_secret) {
        if !secret.is_empty() {
            text = text.replace(secret, MASK);
        }
    }
    clean_text(&text)
}

/// Cleans text that another program, a server or a certificate supplied, before it is shown to a person:
/// control characters and characters that change the direction of text become spaces, what looks like a
/// token becomes `***`, and more than 500 characters are cut. For programs that print what
/// [`Error`](crate::error::Error) does not carry.
pub fn clean_text(text: &str) -> String {
    // Before it is cut, so that no half of a token is left.
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

/// Whether a value looks like a token or a secret of the platform.
pub(crate) fn is_secret_like(value: &str) -> bool {
    secret_start(value.trim()).is_some()
}

/// Where in a word something begins that looks like a token: a JWT (`eyJ`), or a prefix of the platform's
/// followed by at least eight characters with a digit among them.
fn secret_start(word: &str) -> Option<usize> {
    let jwt = word.find("eyJ").filter(|start| word.len() - start >= 16);
    let prefixed = PREFIXES.iter().filter_map(|prefix| {
        let start = word.find(prefix)?;
        let rest = &word[start + prefix.len()..];
        (rest.len() >= 8 && rest.contains(|c: char| c.is_ascii_digit())).then_some(start)
    });
    prefixed.chain(jwt).min()
}

/// Whether it could control a terminal or turn a message around.
pub(crate) fn has_harmful(text: &str) -> bool {
    text.contains(is_harmful)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A foreign error and its causes, each reduced to its cleaned text.
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
    fn secrets_and_whatever_looks_like_a_token_are_masked() {
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
    fn nothing_controls_the_terminal_or_turns_the_text_around() {
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
    fn text_is_cut_after_its_tokens_are_masked() {
        let token = format!("eyJ{}", "a".repeat(2000));
        assert_eq!(clean_text(&format!("x {token} y")), "x *** y");
        let long = clean_text(&"b ".repeat(2000));
        assert!(
            long.chars().count() <= LONGEST + 3 && long.ends_with("..."),
            "{long}"
        );
    }
}
