use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::pooled_connection::bb8;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};

use super::models::{Order, OrderRow, User, UserRow};
use super::schema::{orders, users};
use crate::shop::failure::{Failure, PageFailure};
use crate::shop::input::{Form, NewOrder, NewUser, Wish};
use crate::shop::{SHOWN, page, views};

type Pool = bb8::Pool<AsyncPgConnection>;
type Body<T> = Result<Json<T>, JsonRejection>;

/// The routes of the service. Call [`migrate`](super::migrate) first.
pub fn routes(pool: Pool) -> Router {
    Router::new()
        .route("/", get(show_page).post(submit_form))
        .route("/api/users", get(list_users).post(create_user))
        .route("/api/users/{id}", get(show_user))
        .route("/api/orders", get(list_orders).post(create_order))
        .with_state(pool)
}

async fn show_page(State(pool): State<Pool>) -> Result<Response, PageFailure> {
    let orders = newest_orders(&mut *pool.get().await?).await?;
    Ok(page::shop(&orders, &Form::default(), None).into_response())
}

async fn submit_form(
    State(pool): State<Pool>,
    axum::Form(form): axum::Form<Form>,
) -> Result<Response, PageFailure> {
    let mut connection = pool.get().await?;
    match form.checked() {
        Ok(wish) => {
            fulfil(&mut connection, &wish).await?;
            Ok(Redirect::to("/").into_response())
        }
        Err(invalid) => {
            let orders = newest_orders(&mut connection).await?;
            let page = page::shop(&orders, &form, Some(invalid));
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
        }
    }
}

async fn list_users(State(pool): State<Pool>) -> Result<Json<Vec<views::User>>, Failure> {
    let users: Vec<User> = users::table
        .order(users::name)
        .select(User::as_select())
        .load(&mut pool.get().await?)
        .await?;
    Ok(Json(users.into_iter().map(views::User::from).collect()))
}

async fn create_user(
    State(pool): State<Pool>,
    body: Body<NewUser>,
) -> Result<(StatusCode, Json<views::User>), Failure> {
    let new = body?.0.checked()?;
    let user: User = diesel::insert_into(users::table)
        .values(UserRow::from(&new))
        .returning(User::as_returning())
        .get_result(&mut pool.get().await?)
        .await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

async fn show_user(
    State(pool): State<Pool>,
    Path(id): Path<i64>,
) -> Result<Json<views::UserWithOrders>, Failure> {
    let mut connection = pool.get().await?;
    let user: User = users::table
        .find(id)
        .select(User::as_select())
        .first(&mut connection)
        .await?;
    let orders: Vec<Order> = Order::belonging_to(&user)
        .order(orders::id.desc())
        .select(Order::as_select())
        .load(&mut connection)
        .await?;
    Ok(Json(views::UserWithOrders {
        user: user.into(),
        orders: orders.into_iter().map(views::OwnOrder::from).collect(),
    }))
}

async fn list_orders(State(pool): State<Pool>) -> Result<Json<Vec<views::Order>>, Failure> {
    Ok(Json(newest_orders(&mut *pool.get().await?).await?))
}

async fn create_order(
    State(pool): State<Pool>,
    body: Body<NewOrder>,
) -> Result<(StatusCode, Json<views::OwnOrder>), Failure> {
    let new = body?.0.checked()?;
    let order: Order = diesel::insert_into(orders::table)
        .values(OrderRow::from(&new))
        .returning(Order::as_returning())
        .get_result(&mut pool.get().await?)
        .await?;
    Ok((StatusCode::CREATED, Json(order.into())))
}

async fn newest_orders(connection: &mut AsyncPgConnection) -> QueryResult<Vec<views::Order>> {
    let rows: Vec<(Order, User)> = orders::table
        .inner_join(users::table)
        .order(orders::id.desc())
        .limit(SHOWN.into())
        .select((Order::as_select(), User::as_select()))
        .load(connection)
        .await?;
    let orders = rows.into_iter().map(|(order, user)| order.of(user));
    Ok(orders.collect())
}

/// Inserts the order, and the user if the name is new, in one transaction.
async fn fulfil(connection: &mut AsyncPgConnection, wish: &Wish) -> QueryResult<()> {
    connection
        .transaction(async |connection| {
            let user_id: i64 = diesel::insert_into(users::table)
                .values(users::name.eq(&wish.name))
                .on_conflict(users::name)
                .do_update()
                .set(users::name.eq(excluded(users::name)))
                .returning(users::id)
                .get_result(connection)
                .await?;
            diesel::insert_into(orders::table)
                .values((
                    orders::user_id.eq(user_id),
                    orders::item.eq(&wish.item),
                    orders::cents.eq(wish.cents),
                ))
                .execute(connection)
                .await?;
            Ok(())
        })
        .await
}
