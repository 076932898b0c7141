//! The report, for people and for scripts.

use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use lakebase_core::Error;
use lakebase_core::adapter::clean_text;
use serde_json::{Map, Value, json};
use terminal_size::terminal_size_of;

use crate::terminal::wrap;
use crate::write_stdout;

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Configuration,
    SignIn,
    Compute,
    Clock,
    Token,
    Name,
    Network,
    Certificate,
    Login,
    Role,
    Schema,
    Rows,
    Versions,
}

impl Check {
    pub(crate) const AFTER_CONFIGURATION: [Self; 12] = [
        Self::SignIn,
        Self::Compute,
        Self::Clock,
        Self::Token,
        Self::Name,
        Self::Network,
        Self::Certificate,
        Self::Login,
        Self::Role,
        Self::Schema,
        Self::Rows,
        Self::Versions,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::SignIn => "authentication",
            Self::Compute => "compute",
            Self::Clock => "clock",
            Self::Token => "token",
            Self::Name => "host name",
            Self::Network => "network",
            Self::Certificate => "certificate",
            Self::Login => "login",
            Self::Role => "role",
            Self::Schema => "schema",
            Self::Rows => "row security",
            Self::Versions => "versions",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Warning,
    Failed,
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Good => "✔",
            Self::Warning => "!",
            Self::Failed => "✘",
            Self::Skipped => "-",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Failed => AnsiColor::Red.on_default().bold(),
            Self::Skipped => Style::new().dimmed(),
        }
    }
}

/// The result of a check.
#[derive(Debug)]
pub(crate) struct Finding {
    verdict: Verdict,
    text: String,
    fix: Option<String>,
    facts: Vec<(String, String)>,
}

impl Finding {
    /// Cleans `text`, which may contain names and messages of servers and certificates.
    fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            verdict,
            text: clean_text(&text.into()),
            fix: None,
            facts: Vec::new(),
        }
    }

    pub(crate) fn good(text: impl Into<String>) -> Self {
        Self::new(Verdict::Good, text)
    }

    pub(crate) fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, reason)
    }

    pub(crate) fn warning(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..Self::new(Verdict::Warning, text)
        }
    }

    pub(crate) fn problem(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..Self::new(Verdict::Failed, text)
        }
    }

    /// The error's text, with its hint as a separate fix.
    pub(crate) fn failed(error: &Error) -> Self {
        let mut text = error.chain();
        if let Some(at) = text.rfind(" [trying again") {
            text.truncate(at);
        }
        let mut fix = error.hint().map(str::to_owned);
        if let Some(hint) = &fix {
            text = text.replacen(&format!(". {hint}"), "", 1);
        } else if error.is_transient() {
            fix = Some(
                "Retry; if it fails again, check the workspace's status, proxies and firewalls"
                    .to_owned(),
            );
        }
        Self {
            verdict: Verdict::Failed,
            // An error's text is cleaned already.
            text,
            fix,
            facts: Vec::new(),
        }
    }

    pub(crate) fn into_warning(mut self) -> Self {
        self.verdict = Verdict::Warning;
        self
    }

    pub(crate) fn with(mut self, facts: impl IntoIterator<Item = (String, String)>) -> Self {
        let clean = |(name, value): (String, String)| (name, clean_text(&value));
        self.facts.extend(facts.into_iter().map(clean));
        self
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.verdict == Verdict::Failed
    }
}

/// The findings so far.
#[derive(Debug)]
pub(crate) struct Report {
    findings: Vec<(Check, Finding)>,
    as_json: bool,
}

impl Report {
    pub(crate) fn new(as_json: bool) -> Self {
        Self {
            findings: Vec::new(),
            as_json,
        }
    }

    pub(crate) fn add(&mut self, check: Check, finding: Finding) -> io::Result<()> {
        if !self.as_json {
            crate::unless_closed(print(check, &finding))?;
        }
        self.findings.push((check, finding));
        Ok(())
    }

    /// Prints the summary, or all findings as JSON. Returns whether no check has failed.
    pub(crate) fn finish(self) -> io::Result<bool> {
        let (failed, warnings) = (self.count(Verdict::Failed), self.count(Verdict::Warning));
        let text = match (failed, warnings) {
            _ if self.as_json => format!("{:#}\n", self.to_json(failed == 0)),
            (0, 0) => "\nA program with this configuration can log in.\n".to_owned(),
            (0, n) => {
                format!("\nA program with this configuration can log in. Warnings: {n}.\n")
            }
            (n, _) => format!("\nProblems to fix: {n}.\n"),
        };
        write_stdout(&text)?;
        Ok(failed == 0)
    }

    fn count(&self, verdict: Verdict) -> usize {
        let found = |(_, finding): &&(Check, Finding)| finding.verdict == verdict;
        self.findings.iter().filter(found).count()
    }

    fn to_json(&self, is_ok: bool) -> Value {
        let check = |(check, finding): &(Check, Finding)| {
            let facts: Map<String, Value> = finding
                .facts
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect();
            json!({
                "check": check.name(),
                "verdict": finding.verdict.word(),
                "text": finding.text,
                "fix": finding.fix,
                "facts": facts,
            })
        };
        json!({
            "ok": is_ok,
            "checks": self.findings.iter().map(check).collect::<Vec<_>>(),
        })
    }
}

/// Prints symbols, colours and line breaks on a terminal, and words elsewhere.
fn print(check: Check, finding: &Finding) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    let verdict = finding.verdict;
    let (mark, arrow) = match out.current_choice() {
        anstream::ColorChoice::Never => (format!("{:<8}", verdict.word()), "fix:"),
        _ => (verdict.symbol().to_owned(), "→"),
    };
    let indent = mark.chars().count() + 16;
    let wrapped =
        |text: &str, more: usize| wrap(text, indent + more, terminal_size_of(io::stdout()));
    let (style, name) = (verdict.style(), check.name());
    // On one line, as Postgres's details may have several.
    let text: Vec<&str> = finding.text.split_whitespace().collect();
    let text = wrapped(&text.join(" "), 0);
    writeln!(out, "{style}{mark}{style:#} {name:<14} {text}")?;
    let indent = " ".repeat(indent);
    for (name, value) in &finding.facts {
        let (dim, fact) = (
            Style::new().dimmed(),
            wrapped(&format!("{name}: {value}"), 2),
        );
        writeln!(out, "{indent}{dim}{fact}{dim:#}")?;
    }
    if let Some(fix) = &finding.fix {
        let (bold, fix) = (Style::new().bold(), wrapped(&format!("{arrow} {fix}"), 2));
        writeln!(out, "{indent}{bold}{fix}{bold:#}")?;
    }
    out.flush()
}
