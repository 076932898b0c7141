//! What others wrote, in our messages.

/// On one line, and at most so many characters of it.
pub(crate) fn excerpt(text: &str, longest: usize) -> String {
    let mut excerpt: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(longest)
        .collect();
    if text.chars().count() > longest {
        excerpt.push_str("...");
    }
    excerpt.trim().to_owned()
}
