//! Two users have the notes open in two browsers. Skipped without a browser, like the tests of the shop.

use futures_util::future::join;

use crate::notes::App;
use crate::shop::Orm;
use crate::shop_in_a_browser::Browser;

async fn log_in(browser: &Browser, url: &str, person: &str) {
    browser.open(&format!("{url}/login")).await;
    browser.press(person).await;
    let title = format!("//h1[. = 'Notes of {person}']");
    browser.find(&title).await;
}

async fn add(browser: &Browser, text: &str) {
    browser.fill_in("New note", text).await;
    browser.press("Add").await;
    browser.find(&format!("//li[span = '{text}']")).await;
}

async fn two_users(orm: Orm) {
    let (Some(ana), Some(bo)) = join(Browser::start(), Browser::start()).await else {
        return;
    };
    let app = App::start(orm).await;
    let url = &app.front;
    join(
        log_in(&ana, url, "ana@example.com"),
        log_in(&bo, url, "bo@example.com"),
    )
    .await;
    join(add(&ana, "tea & <b>milk</b>"), add(&bo, "his first")).await;
    add(&bo, "his second").await;
    // His page has his two notes and no other.
    bo.find("//ul[count(li) = 2 and li[span = 'his first'] and li[span = 'his second']]")
        .await;
    bo.click("//li[span = 'his first']//button[. = 'Delete']")
        .await;
    bo.find("//ul[count(li) = 1 and li[span = 'his second']]")
        .await;
    // Her page has all notes, and a button for her own.
    ana.open(&format!("{url}/")).await;
    ana.find("//ul[count(li) = 2 and count(.//button) = 1]")
        .await;
    ana.find("//li[span = 'his second' and contains(., 'by bo@example.com')]")
        .await;
    join(ana.close(), bo.close()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_in_two_browsers_have_their_own_notes_with_diesel() {
    two_users(Orm::Diesel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_in_two_browsers_have_their_own_notes_with_seaorm() {
    two_users(Orm::SeaOrm).await;
}
