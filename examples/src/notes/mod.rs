//! Notes of many people. Each request's queries run as the person who sent it, and row-level security in Postgres decides
//! which notes that person sees.
//!
//! One version uses diesel-async, the other SeaORM: `notes_diesel` and `notes_seaorm`.

mod current_user;
mod failure;
mod front;
mod page;
mod routes;
mod serve;
pub mod with_diesel;
pub mod with_seaorm;

use serde::Serialize;

pub use current_user::{CurrentUser, Headers, Users};
pub use failure::Failure;
pub use front::{add_people, front};
pub use routes::routes;
pub use serve::{serve, start};

use crate::Result;

/// How many notes the page and the API show, the newest first.
const SHOWN: u16 = 100;

/// A row that the policies show.
#[derive(Clone, Debug, Serialize)]
pub struct Note {
    pub id: i64,
    pub owner: String,
    pub text: String,
}

/// A user's pool. No query names the user, because the connection has logged in as the user.
pub trait Notes: Clone + Send + Sync + 'static {
    fn list(&self) -> impl Future<Output = Result<Vec<Note>, Failure>> + Send;

    fn add(&self, text: &str) -> impl Future<Output = Result<Note, Failure>> + Send;

    /// Returns whether there was such a note.
    fn delete(&self, id: i64) -> impl Future<Output = Result<bool, Failure>> + Send;
}
