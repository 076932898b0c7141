//! Output for people: messages on standard error, line breaks, progress.

use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use terminal_size::{Width, terminal_size_of};
use tokio::time::{Instant, interval};

/// On a narrower column of text, the terminal breaks the lines.
const NARROWEST: usize = 20;

/// Prints the error that ends the program.
pub(crate) fn print_error(text: &str) {
    print(AnsiColor::Red.on_default().bold(), text);
}

/// Prints a message that ends nothing.
pub(crate) fn print_note(text: &str) {
    print(Style::new().bold(), text);
}

fn print(style: Style, text: &str) {
    let width = terminal_size_of(io::stderr());
    let text = wrap(&format!("lakebase: {text}"), 0, width);
    let text = text.trim_start_matches("lakebase:");
    let _ = writeln!(anstream::stderr(), "{style}lakebase:{style:#}{text}");
}

/// Breaks lines between words where they would leave the terminal, but not inside of a command in backticks, which can then be
/// copied. Lines after the first one begin with `indent` spaces. Without a terminal, the text stays as it is.
pub(crate) fn wrap<H>(text: &str, indent: usize, terminal: Option<(Width, H)>) -> String {
    let room = terminal.map_or(0, |(Width(width), _)| {
        usize::from(width).saturating_sub(indent)
    });
    if room < NARROWEST {
        return text.to_owned();
    }
    let mut wrapped = String::new();
    let mut used = 0;
    let mut is_quoted = false;
    for word in text.split_inclusive(|c| {
        is_quoted ^= c == '`';
        c == '\n' || (c == ' ' && !is_quoted)
    }) {
        let length = word.trim_end().chars().count();
        if used > 0 && used + length > room {
            wrapped.truncate(wrapped.trim_end().len());
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            used = 0;
        }
        wrapped.push_str(word);
        used = match word.ends_with('\n') {
            true => 0,
            false => used + word.chars().count(),
        };
    }
    wrapped
}

/// Shows on a terminal how long something takes.
pub(crate) async fn progress<T>(text: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    let mut seconds = interval(Duration::from_secs(1));
    // Nothing is shown in the first second.
    seconds.tick().await;
    let mut line = Line(false);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            _ = seconds.tick() => line.show(&format!("{text} .. {} s", began.elapsed().as_secs())),
        }
    }
}

/// A line on the terminal that is cleared when this is dropped. Holds whether it is shown.
struct Line(bool);

impl Line {
    fn show(&mut self, text: &str) {
        self.0 = true;
        let width = terminal_size_of(io::stderr()).map_or(80, |(Width(width), _)| width);
        // A longer text would break the line, and only its last part would be cleared.
        let text: String = text
            .chars()
            .take(usize::from(width).saturating_sub(1))
            .collect();
        let _ = write!(io::stderr(), "\r\x1b[2K{text}");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.0 {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use terminal_size::Height;

    use super::*;

    #[test]
    fn lines_do_not_break_inside_of_a_command() {
        let text = "a long text: run `lakebase grant` now";
        let wrapped = wrap(text, 2, Some((Width(24), Height(1))));
        assert_eq!(wrapped, "a long text: run\n  `lakebase grant` now");
    }

    #[test]
    fn lines_break_between_words_and_are_indented() {
        let text = "a long text of several words, and-one-word-that-is-longer-than-a-line\nlast";
        let wrapped = wrap(text, 2, Some((Width(24), Height(1))));
        let expected =
            "a long text of several\n  words,\n  and-one-word-that-is-longer-than-a-line\nlast";
        assert_eq!(wrapped, expected);
        assert_eq!(wrap::<Height>(text, 2, None), text);
        assert_eq!(wrap(text, 2, Some((Width(10), Height(1)))), text);
    }
}
