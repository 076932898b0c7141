//! The page and the JSON API, the same for both ORMs.

use axum::extract::{Form, Path};
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use maud::Markup;
use serde::Deserialize;

use super::{CurrentUser, Failure, Note, Notes, Users, page};

pub fn routes<P: Notes>(users: Users<P>) -> Router {
    Router::new()
        .route("/", get(show_page::<P>).post(submit_note::<P>))
        .route("/{id}/delete", post(submit_delete::<P>))
        .route("/api/notes", get(list::<P>).post(add::<P>))
        .route("/api/notes/{id}", delete(remove::<P>))
        .with_state(users)
}

#[derive(Deserialize)]
struct NewNote {
    text: String,
}

impl NewNote {
    fn checked(&self) -> Result<&str, Failure> {
        let text = self.text.trim();
        // Postgres rejects NUL in texts.
        if text.is_empty() || text.contains('\0') || text.chars().count() > 1000 {
            let problem = "A note has 1 to 1000 characters, none of which is NUL.";
            return Err(Failure(
                StatusCode::UNPROCESSABLE_ENTITY,
                problem.to_owned(),
            ));
        }
        Ok(text)
    }
}

async fn show_page<P: Notes>(user: CurrentUser<P>) -> Result<Markup, Failure> {
    Ok(page::notes(&user.name, &user.pool.list().await?))
}

async fn submit_note<P: Notes>(
    user: CurrentUser<P>,
    Form(note): Form<NewNote>,
) -> Result<Redirect, Failure> {
    user.pool.add(note.checked()?).await?;
    Ok(Redirect::to("/"))
}

async fn submit_delete<P: Notes>(user: CurrentUser<P>, id: Path<i64>) -> Result<Redirect, Failure> {
    remove(user, id).await?;
    Ok(Redirect::to("/"))
}

async fn list<P: Notes>(user: CurrentUser<P>) -> Result<Json<Vec<Note>>, Failure> {
    Ok(Json(user.pool.list().await?))
}

async fn add<P: Notes>(
    user: CurrentUser<P>,
    Json(note): Json<NewNote>,
) -> Result<(StatusCode, Json<Note>), Failure> {
    let note = user.pool.add(note.checked()?).await?;
    Ok((StatusCode::CREATED, Json(note)))
}

async fn remove<P: Notes>(
    user: CurrentUser<P>,
    Path(id): Path<i64>,
) -> Result<StatusCode, Failure> {
    if user.pool.delete(id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let text = "You have no such note.".to_owned();
    Err(Failure(StatusCode::NOT_FOUND, text))
}
