//! Tables of figures, printed and saved as JSON for `BENCHMARKS.md`.

use std::path::Path;

use serde_json::{Value, json};

/// The order in the file.
const TABLES: [&str; 10] = [
    "credential",
    "logins",
    "checkout",
    "rotation",
    "herd",
    "cold",
    "orms",
    "memory",
    "idle",
    "build",
];

/// The figures of each slice by row and column.
pub struct Table {
    name: &'static str,
    unit: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Vec<f64>>)>,
    quotients: Vec<Value>,
}

impl Table {
    pub fn new(name: &'static str, unit: &'static str, columns: &[&'static str]) -> Self {
        assert!(TABLES.contains(&name), "{name} is no table");
        Self {
            name,
            unit,
            columns: columns.to_vec(),
            rows: Vec::new(),
            quotients: Vec::new(),
        }
    }

    pub fn add(&mut self, row: &str, column: &str, figure: f64) {
        assert!(figure.is_finite(), "{}: {row}, {column}", self.name);
        let column = self.column(column);
        let width = self.columns.len();
        let index = self.rows.iter().position(|(name, _)| name == row);
        let index = index.unwrap_or_else(|| {
            self.rows.push((row.to_owned(), vec![Vec::new(); width]));
            self.rows.len() - 1
        });
        self.rows[index].1[column].push(figure);
    }

    fn column(&self, name: &str) -> usize {
        let index = self.columns.iter().position(|column| *column == name);
        index.unwrap_or_else(|| panic!("{}: no column {name}", self.name))
    }

    pub fn figures(&self, row: &str, column: &str) -> &[f64] {
        let found = self.rows.iter().find(|(name, _)| name == row);
        let figures = &found
            .unwrap_or_else(|| panic!("{}: no row {row}", self.name))
            .1[self.column(column)];
        assert!(!figures.is_empty(), "{}: {row}, {column}", self.name);
        figures
    }

    /// Adds the median of the quotients of each slice.
    pub fn quotient(&mut self, name: &str, of: (&str, &str), by: (&str, &str), goal: Option<f64>) {
        let (of, by) = (self.figures(of.0, of.1), self.figures(by.0, by.1));
        assert_eq!(of.len(), by.len(), "{}: {name}: slices", self.name);
        let each: Vec<f64> = of.iter().zip(by).map(|(of, by)| of / by).collect();
        self.quotients.push(described(name, &each, goal));
    }

    /// Adds a single figure.
    pub fn fact(&mut self, name: &str, figure: f64, goal: Option<f64>) {
        self.quotients.push(described(name, &[figure], goal));
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                let cells = self.columns.iter().zip(cells);
                let filled = cells.filter(|(_, figures)| !figures.is_empty());
                let cells: serde_json::Map<String, Value> = filled
                    .map(|(column, figures)| ((*column).to_owned(), summary(figures)))
                    .collect();
                json!({ "name": name, "cells": cells })
            })
            .collect();
        json!({
            "name": self.name,
            "unit": self.unit,
            "columns": self.columns,
            "rows": rows,
            "quotients": self.quotients,
        })
    }

    pub fn print(&self) {
        println!("\n{}, {}: median (10 % to 90 %)", self.name, self.unit);
        for (row, cells) in &self.rows {
            println!("  {row}");
            for (column, figures) in self.columns.iter().zip(cells) {
                if !figures.is_empty() {
                    let [low, median, high] = [0.1, 0.5, 0.9].map(|share| at(figures, share));
                    println!("    {median:10.3} ({low:.3} to {high:.3})  {column}");
                }
            }
        }
        for quotient in &self.quotients {
            let goal = &quotient["goal"];
            let goal = match goal.is_null() {
                true => String::new(),
                false => format!(", at most {goal}"),
            };
            let name = quotient["name"].as_str().unwrap_or_default();
            println!(
                "  {name}: {:.3}{goal}",
                quotient["median"].as_f64().unwrap_or(f64::NAN)
            );
        }
    }

    /// Replaces the table of this name in the file.
    pub fn save(&self, file: &Path) {
        let mut all: Vec<Value> = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).expect("tables"),
            Err(_) => Vec::new(),
        };
        all.retain(|table| table["name"] != self.name);
        all.push(self.json());
        all.sort_by_key(|table| TABLES.iter().position(|name| table["name"] == *name));
        let text = serde_json::to_string_pretty(&all).expect("JSON") + "\n";
        std::fs::write(file, text).expect("written");
    }
}

fn described(name: &str, figures: &[f64], goal: Option<f64>) -> Value {
    let mut described = summary(figures);
    described["name"] = json!(name);
    described["goal"] = json!(goal);
    described
}

fn summary(figures: &[f64]) -> Value {
    let rounded = |figure: f64| (figure * 1e4).round() / 1e4;
    let [p10, median, p90, p99] = [0.1, 0.5, 0.9, 0.99].map(|share| rounded(at(figures, share)));
    json!({ "median": median, "p10": p10, "p90": p90, "p99": p99, "count": figures.len() })
}

/// Returns the quantile of figures at `share`.
pub fn at(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (share * (sorted.len() - 1) as f64).round() as usize;
    sorted[index]
}
