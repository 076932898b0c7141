//! Every error text of the libraries and of the command line is explained in `docs/troubleshooting.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/troubleshooting.md";
const SOURCES: [&str; 4] = [
    "lakebase-core/src",
    "lakebase-diesel/src",
    "lakebase-seaorm/src",
    "lakebase-cli/src",
];
/// A shorter fragment identifies no text.
const SHORTEST: usize = 12;

/// Types and their constructors that take the text of an error.
const CONSTRUCTORS: &[(&str, &[&str])] = &[
    (
        "Error",
        &[
            "new", "config", "network", "timeout", "database", "provider", "other",
        ],
    ),
    ("MigrationError", &["new", "postgres", "rejected"]),
    ("LoginFailure", &["permanent"]),
    ("HookError", &["message"]),
    ("Finding", &["problem", "warning"]),
];
/// Functions that take the text of an error and are called from other files. The test finds those of the same file itself.
const FUNCTIONS: &[&str] = &[
    "Declined",
    "Err",
    "Incomplete",
    "database_error",
    "explain",
    "failure",
    "given_up",
    "in_rehearsal",
    "map_err",
    "message",
    "ok_or",
    "ok_or_else",
    "parse",
    "platform_error",
    "rejected",
    "with_setting",
    "wrong",
];
/// Functions that take hints or texts of the log.
const NO_ERRORS: &[&str] = &["with_hint", "debug", "info", "warn"];

#[derive(Debug, PartialEq)]
enum Kind {
    Word,
    Text,
    Sign,
}

struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

/// Words, string literals and signs of Rust source; no comments, characters or lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        let c = at(i);
        let hashes = (i + 1..).take_while(|&i| at(i) == '#').count();
        let is_raw = c == 'r' && at(i + 1 + hashes) == '"';
        let mut token = None;
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if is_raw {
            let end: String = format!("\"{}", "#".repeat(hashes));
            i += hashes + 2;
            let begin = i;
            while i < chars.len() && !(0..end.len()).all(|k| at(i + k) == end.as_bytes()[k].into())
            {
                i += 1;
            }
            token = Some((Kind::Text, chars[begin..i].iter().collect()));
            i += end.len();
        } else if c == '"' {
            let mut text = String::new();
            i += 1;
            while i < chars.len() && at(i) != '"' {
                if at(i) != '\\' {
                    text.push(at(i));
                } else {
                    i += 1;
                    match at(i) {
                        'n' | 't' | 'r' => text.push(' '),
                        // A continued line.
                        '\n' => {
                            while at(i + 1).is_whitespace() {
                                i += 1;
                            }
                        }
                        escaped => text.push(escaped),
                    }
                }
                i += 1;
            }
            i += 1;
            token = Some((Kind::Text, text));
        } else if c == '\'' && at(i + 1) == '\\' {
            i += 3;
            while i < chars.len() && at(i - 1) != '\'' {
                i += 1;
            }
        } else if c == '\'' && at(i + 2) == '\'' {
            i += 3;
        } else if c.is_alphanumeric() || c == '_' {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            token = Some((Kind::Word, chars[start..i].iter().collect()));
        } else {
            i += 1;
            if !c.is_whitespace() && c != '\'' {
                token = Some((Kind::Sign, c.to_string()));
            }
        }
        if let Some((kind, text)) = token {
            tokens.push(Token { kind, text, line });
        }
        line += chars[start..i.min(chars.len())]
            .iter()
            .filter(|&&c| c == '\n')
            .count();
    }
    tokens
}

/// A file without its `#[cfg(test)]` modules.
struct Source {
    name: String,
    tokens: Vec<Token>,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a source");
        let cfg_test = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
        let mut source = Self {
            name: path
                .strip_prefix(root)
                .unwrap_or(path)
                .display()
                .to_string(),
            tokens: tokens(&text),
        };
        let starts = |source: &Self| {
            let is_test = |i: usize| {
                cfg_test
                    .iter()
                    .enumerate()
                    .all(|(n, t)| source.is(i + n, t))
            };
            (0..source.tokens.len()).find(|&i| is_test(i))
        };
        while let Some(start) = starts(&source) {
            // `mod name;` or `mod name { .. }`
            let next = start + cfg_test.len() + 1;
            let end = match source.is(next, ";") {
                true => next + 1,
                false => source.close(next),
            };
            source.tokens.drain(start..end);
        }
        source
    }

    fn is(&self, i: usize, text: &str) -> bool {
        self.tokens.get(i).is_some_and(|token| token.is(text))
    }

    /// After the bracket that closes the one at `open`.
    fn close(&self, open: usize) -> usize {
        let mut depth = 0;
        for (i, token) in self.tokens.iter().enumerate().skip(open) {
            if ["(", "[", "{"].iter().any(|sign| token.is(sign)) {
                depth += 1;
            } else if [")", "]", "}"].iter().any(|sign| token.is(sign)) {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
        }
        self.tokens.len()
    }

    /// The end of the first argument of a call.
    fn first_argument(&self, open: usize) -> usize {
        let end = self.close(open);
        let mut i = open + 1;
        while i < end && !self.is(i, ",") {
            let opens = ["(", "[", "{"].iter().any(|sign| self.is(i, sign));
            i = if opens { self.close(i) } else { i + 1 };
        }
        i
    }

    /// The `;` that ends the statement around `from`.
    fn end(&self, from: usize) -> usize {
        let mut i = from;
        while i < self.tokens.len() && !self.is(i, ";") {
            let opens = ["(", "[", "{"].iter().any(|sign| self.is(i, sign));
            i = if opens { self.close(i) } else { i + 1 };
        }
        i
    }

    /// The `fn` of the function around `at`.
    fn function(&self, at: usize) -> Option<usize> {
        (0..at).rev().find(|&i| self.is(i, "fn"))
    }

    /// The opening bracket of each call that gets the text of an error.
    fn calls(&self, helpers: &BTreeSet<String>) -> Vec<usize> {
        let is_call = |open: usize| {
            let Some(name) = open.checked_sub(1).map(|i| &self.tokens[i]) else {
                return false;
            };
            let before = |back: usize, text: &str| open >= back && self.is(open - back, text);
            let is_constructor = CONSTRUCTORS.iter().any(|(of, names)| {
                names.contains(&&*name.text) && before(2, ":") && before(3, ":") && before(4, of)
            });
            let is_function = FUNCTIONS.contains(&&*name.text) || helpers.contains(&name.text);
            self.is(open, "(")
                && name.kind == Kind::Word
                && (is_constructor || is_function && !before(2, "fn"))
        };
        (0..self.tokens.len()).filter(|&i| is_call(i)).collect()
    }

    /// Finds string literals from `start` to `end`, and those bound to names in between. A name that is a parameter makes the
    /// function or closure around it a helper.
    fn literals(
        &self,
        start: usize,
        end: usize,
        depth: usize,
        helpers: &mut BTreeSet<String>,
        found: &mut Vec<(usize, String)>,
    ) {
        let mut names: Vec<String> = Vec::new();
        let mut skipped = start;
        for (i, token) in self.tokens.iter().enumerate().take(end).skip(start) {
            if NO_ERRORS.contains(&&*token.text) && token.kind == Kind::Word {
                skipped = skipped.max(self.close(i));
            }
            match token.kind {
                _ if i < skipped => {}
                Kind::Text => {
                    found.push((token.line, token.text.clone()));
                    let placeholders = token.text.split('{').skip(1);
                    let inside = placeholders.filter_map(|part| part.split(['}', ':']).next());
                    names.extend(inside.filter(|name| !name.is_empty()).map(str::to_owned));
                }
                Kind::Word if !self.is(i + 1, ":") && !self.is(i + 1, "!") => {
                    names.push(token.text.clone());
                }
                _ => {}
            }
        }
        if depth == 0 {
            return;
        }
        let function = self.function(start).unwrap_or_default();
        for name in names {
            if let Some((from, to)) = self.binding(&name, function, start) {
                self.literals(from, to, depth - 1, helpers, found);
            } else if let Some(helper) = self.parameter_of(&name, function, start) {
                helpers.insert(helper);
            } else if depth == 2
                && let Some((from, to)) = self.item(&name)
            {
                self.literals(from, to, 0, helpers, found);
            }
        }
    }

    /// The expression of the last `let` before `at` that binds a name.
    fn binding(&self, name: &str, function: usize, at: usize) -> Option<(usize, usize)> {
        (function..at)
            .rev()
            .filter(|&i| self.is(i, "let"))
            .find_map(|i| {
                let equals = (i..at).find(|&i| self.is(i, "=") || self.is(i, ";"))?;
                let binds = (i..equals).any(|i| self.is(i, name));
                // Not the binding around `at` itself.
                let end = self.end(equals);
                (binds && self.is(equals, "=") && end <= at).then_some((equals, end))
            })
    }

    /// The function, or the closure with a name, that has a parameter of this name.
    fn parameter_of(&self, name: &str, function: usize, at: usize) -> Option<String> {
        let closure = (function..at).rev().find_map(|i| {
            let is_closure = self.is(i, "let") && self.is(i + 2, "=") && self.is(i + 3, "|");
            let bar = is_closure.then(|| (i + 4..at).find(|&i| self.is(i, "|")))??;
            let has = (i + 4..bar).any(|i| self.is(i, name));
            (has && self.end(bar) >= at).then(|| self.tokens[i + 1].text.clone())
        });
        closure.or_else(|| {
            let open = (function..at).find(|&i| self.is(i, "("))?;
            let has = (open..self.close(open)).any(|i| self.is(i, name) && self.is(i + 1, ":"));
            // Names of constructors are common to many types.
            let helper = &self.tokens.get(function + 1)?.text;
            (has && !CONSTRUCTORS
                .iter()
                .any(|(_, names)| names.contains(&&**helper)))
            .then(|| helper.clone())
        })
    }

    /// The body of a function, or the value of a constant, of this file.
    fn item(&self, name: &str) -> Option<(usize, usize)> {
        (1..self.tokens.len())
            .filter(|&i| self.is(i, name))
            .find_map(|i| {
                if self.is(i - 1, "fn") {
                    let open = (i..self.tokens.len()).find(|&i| self.is(i, "{"))?;
                    Some((open, self.close(open)))
                } else {
                    (self.is(i - 1, "const") || self.is(i - 1, "static")).then(|| (i, self.end(i)))
                }
            })
    }

    /// Fragments of the file's error texts, with their lines.
    fn texts(&self) -> BTreeSet<(usize, String)> {
        let mut helpers = BTreeSet::new();
        loop {
            let before = helpers.len();
            let mut found = Vec::new();
            for open in self.calls(&helpers.clone()) {
                // The second argument of a finding is the hint.
                let end = match open >= 4 && self.is(open - 4, "Finding") {
                    true => self.first_argument(open),
                    false => self.close(open),
                };
                self.literals(open + 1, end, 2, &mut helpers, &mut found);
            }
            // Messages of the command line.
            let written = self
                .tokens
                .iter()
                .filter(|token| token.kind == Kind::Text && token.text.starts_with("lakebase: "));
            found.extend(written.map(|token| (token.line, token.text.clone())));
            if helpers.len() == before {
                let fragments = found
                    .iter()
                    .filter_map(|(line, text)| Some((*line, fragment(text)?)));
                return fragments.collect();
            }
        }
    }
}

/// The longest part of a text between its placeholders.
fn fragment(text: &str) -> Option<String> {
    let constant = text.split('{').enumerate().map(|(i, part)| match i {
        0 => part,
        _ => part.split_once('}').map_or("", |(_, after)| after),
    });
    let longest = constant.map(normalised).max_by_key(String::len)?;
    let is_text = longest.contains(' ') && longest.contains(char::is_lowercase);
    let sql = [
        "SELECT ",
        "FROM ",
        "WHERE ",
        "VALUES ",
        "ORDER BY ",
        "NOT NULL ",
    ];
    let is_sql = sql.iter().any(|word| longest.contains(word));
    (is_text && longest.len() >= SHORTEST && !is_sql).then_some(longest)
}

fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_error_text_is_in_the_troubleshooting_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = normalised(&fs::read_to_string(root.join(PAGE)).unwrap_or_default());
    let mut missing = Vec::new();
    let mut texts = 0;
    for folder in SOURCES {
        let mut files = Vec::new();
        rust_files(&root.join(folder), &mut files);
        files.sort();
        for path in files {
            let source = Source::read(&root, &path);
            for (line, text) in source.texts() {
                texts += 1;
                if !page.contains(&text) {
                    missing.push(format!("{}:{line}: {text}", source.name));
                }
            }
        }
    }
    assert!(texts > 200, "the scanner finds only {texts} texts");
    assert!(
        missing.is_empty(),
        "{PAGE} lacks {} of {texts} error texts:\n{}",
        missing.len(),
        missing.join("\n")
    );
}
