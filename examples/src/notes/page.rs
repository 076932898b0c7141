//! The pages. Maud escapes user input.

use maud::{DOCTYPE, Markup, html};

use super::Note;

pub fn notes(person: &str, notes: &[Note]) -> Markup {
    let content = html! {
        form method="post" action="/" {
            label for="text" { "New note" } " "
            input id="text" name="text" maxlength="1000" required;
            " " button { "Add" }
        }
        ul {
            @for note in notes {
                li {
                    span { (note.text) } " "
                    @if note.owner == person {
                        form method="post" action={ "/" (note.id) "/delete" } { button { "Delete" } }
                    } @else {
                        "by " (note.owner)
                    }
                }
            }
        }
    };
    framed(&format!("Notes of {person}"), &content)
}

/// The login page.
pub fn login(people: &[&str]) -> Markup {
    let content = html! {
        form method="post" action="/login" {
            @for person in people { p { button name="person" value=(person) { (person) } } }
        }
    };
    framed("Log in", &content)
}

fn framed(title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) }
                // Prevents a request for an icon.
                link rel="icon" href="data:,";
            }
            body { h1 { (title) } (content) }
        }
    }
}
