use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveModelTrait as _, ConnectionTrait, DbErr, EntityTrait as _, ModelTrait as _,
    QueryOrder as _, QuerySelect as _,
};

use super::{Db, order, user};
use crate::shop::failure::{Failure, PageFailure};
use crate::shop::input::{Form, NewOrder, NewUser, Wish};
use crate::shop::{SHOWN, page, views};

type Body<T> = Result<Json<T>, JsonRejection>;

/// The routes of the service. Call [`migrate`](super::migrate) first.
pub fn routes<C: Db>(db: C) -> Router {
    Router::new()
        .route("/", get(show_page::<C>).post(submit_form::<C>))
        .route("/api/users", get(list_users::<C>).post(create_user::<C>))
        .route("/api/users/{id}", get(show_user::<C>))
        .route("/api/orders", get(list_orders::<C>).post(create_order::<C>))
        .with_state(db)
}

async fn show_page<C: Db>(State(db): State<C>) -> Result<Response, PageFailure> {
    let orders = newest_orders(&db).await?;
    Ok(page::shop(&orders, &Form::default(), None).into_response())
}

async fn submit_form<C: Db>(
    State(db): State<C>,
    axum::Form(form): axum::Form<Form>,
) -> Result<Response, PageFailure> {
    match form.checked() {
        Ok(wish) => {
            fulfil(&db, wish).await?;
            Ok(Redirect::to("/").into_response())
        }
        Err(invalid) => {
            let orders = newest_orders(&db).await?;
            let page = page::shop(&orders, &form, Some(invalid));
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
        }
    }
}

async fn list_users<C: Db>(State(db): State<C>) -> Result<Json<Vec<views::User>>, Failure> {
    let users = user::Entity::find()
        .order_by_asc(user::Column::Name)
        .all(&db)
        .await?;
    Ok(Json(users.into_iter().map(views::User::from).collect()))
}

async fn create_user<C: Db>(
    State(db): State<C>,
    body: Body<NewUser>,
) -> Result<(StatusCode, Json<views::User>), Failure> {
    let new = body?.0.checked()?;
    let user = user::ActiveModel {
        name: Set(new.name),
        ..Default::default()
    };
    Ok((StatusCode::CREATED, Json(user.insert(&db).await?.into())))
}

async fn show_user<C: Db>(
    State(db): State<C>,
    Path(id): Path<i64>,
) -> Result<Json<views::UserWithOrders>, Failure> {
    let user = user::Entity::find_by_id(id).one(&db).await?;
    let user = user.ok_or(Failure::UnknownUser)?;
    let orders = user
        .find_related(order::Entity)
        .order_by_desc(order::Column::Id)
        .all(&db)
        .await?;
    Ok(Json(views::UserWithOrders {
        user: user.into(),
        orders: orders.into_iter().map(views::OwnOrder::from).collect(),
    }))
}

async fn list_orders<C: Db>(State(db): State<C>) -> Result<Json<Vec<views::Order>>, Failure> {
    Ok(Json(newest_orders(&db).await?))
}

async fn create_order<C: Db>(
    State(db): State<C>,
    body: Body<NewOrder>,
) -> Result<(StatusCode, Json<views::OwnOrder>), Failure> {
    let new = body?.0.checked()?;
    let order = order::ActiveModel {
        user_id: Set(new.user_id),
        item: Set(new.item),
        cents: Set(new.cents),
        ..Default::default()
    };
    Ok((StatusCode::CREATED, Json(order.insert(&db).await?.into())))
}

async fn newest_orders(db: &impl ConnectionTrait) -> Result<Vec<views::Order>, DbErr> {
    let rows = order::Entity::find()
        .find_also_related(user::Entity)
        .order_by_desc(order::Column::Id)
        .limit(u64::from(SHOWN))
        .all(db)
        .await?;
    let orders = rows
        .into_iter()
        .filter_map(|(order, user)| Some(order.of(user?)));
    Ok(orders.collect())
}

/// Inserts the order, and the user if the name is new, in one transaction.
async fn fulfil(db: &impl Db, wish: Wish) -> Result<(), DbErr> {
    let transaction = db.begin().await?;
    let user = user::ActiveModel {
        name: Set(wish.name),
        ..Default::default()
    };
    let same_name = OnConflict::column(user::Column::Name)
        .update_column(user::Column::Name)
        .to_owned();
    let user = user::Entity::insert(user)
        .on_conflict(same_name)
        .exec_with_returning(&transaction)
        .await?;
    let order = order::ActiveModel {
        user_id: Set(user.id),
        item: Set(wish.item),
        cents: Set(wish.cents),
        ..Default::default()
    };
    order.insert(&transaction).await?;
    transaction.commit().await
}
