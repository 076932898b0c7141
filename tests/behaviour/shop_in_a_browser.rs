//! The shop in a browser.
//!
//! Needs `chromium` and `chromedriver` in the `PATH`. Without them, the tests are skipped; with
//! `LAKEBASE_TESTS_REQUIRE_BROWSER=1` they fail.

use std::path::PathBuf;
use std::process::Stdio;

use lakebase_tests::{lakebase, local, soon};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::shop::{Orm, Shop, http};

/// The key of an element in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The time that a search waits for an element, a little shorter than [`soon`].
const SEARCH_MILLIS: u64 = 50_000;

/// A headless browser and its driver. Both end when it is dropped.
pub(crate) struct Browser {
    session: String,
    driver: Driver,
}

/// In its own process group, with the processes that it starts.
struct Driver {
    child: Child,
    /// The home folder of both programs.
    home: TempDir,
}

/// Returns the browser and its driver, or `None` to skip the test.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
        found.find(|file| file.is_file())
    };
    if let (Some(browser), Some(driver)) = (find("chromium"), find("chromedriver")) {
        return Some((browser, driver));
    }
    let why = "chromium or chromedriver is not on PATH";
    if std::env::var_os("LAKEBASE_TESTS_REQUIRE_BROWSER").is_some_and(|value| value == "1") {
        panic!("{why}");
    }
    lakebase_tests::tell(&format!("SKIPPED in a browser: {why}"));
    None
}

impl Browser {
    /// Returns `None` to skip the test.
    pub(crate) async fn start() -> Option<Self> {
        let (browser, driver) = programs()?;
        let home = tempfile::tempdir().expect("a folder");
        let child = Command::new(driver)
            .arg("--port=0")
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts");
        let mut driver = Driver { child, home };
        let port = soon(driver.port()).await;
        let profile = driver.home.path().join("profile");
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "timeouts": { "implicit": SEARCH_MILLIS },
            "goog:chromeOptions": {
                "binary": browser,
                "args": [
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                    "--no-proxy-server",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    format!("--user-data-dir={}", profile.display()),
                ],
            },
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let session = ask(http().post(&url).json(&capabilities)).await;
        let id = session["sessionId"].as_str().expect("a session");
        Some(Self {
            session: format!("{url}/{id}"),
            driver,
        })
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        ask(http().post(format!("{}/{path}", self.session)).json(&body)).await
    }

    pub(crate) async fn open(&self, url: &str) {
        self.command("url", json!({ "url": url })).await;
    }

    /// Waits for an element, and returns its id.
    pub(crate) async fn find(&self, xpath: &str) -> String {
        let element = self.command("element", json!({ "using": "xpath", "value": xpath }));
        let element = element.await;
        let id = element[ELEMENT].as_str();
        id.unwrap_or_else(|| panic!("no {xpath}: {element}"))
            .to_owned()
    }

    /// Fills in the field with this label.
    pub(crate) async fn fill_in(&self, label: &str, text: &str) {
        let xpath = format!("//input[@id = //label[. = '{label}']/@for]");
        let field = self.find(&xpath).await;
        self.command(&format!("element/{field}/clear"), json!({}))
            .await;
        self.command(&format!("element/{field}/value"), json!({ "text": text }))
            .await;
    }

    pub(crate) async fn press(&self, button: &str) {
        self.click(&format!("//button[. = '{button}']")).await;
    }

    pub(crate) async fn click(&self, xpath: &str) {
        let element = self.find(xpath).await;
        self.command(&format!("element/{element}/click"), json!({}))
            .await;
    }

    async fn current_url(&self) -> String {
        let url = ask(http().get(format!("{}/url", self.session))).await;
        url.as_str().expect("a URL").to_owned()
    }

    pub(crate) async fn close(self) {
        ask(http().delete(&self.session)).await;
        self.driver.end().await;
    }
}

impl Driver {
    /// Reads the port from the driver's output.
    async fn port(&mut self) -> u16 {
        let stdout = self.child.stdout.take().expect("an output");
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.expect("a line") {
            let port = line.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = port {
                // A full pipe would block the driver.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return port.trim_end_matches('.').parse().expect("a port");
            }
        }
        panic!("chromedriver ended without a port");
    }

    fn kill_group(&self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }

    async fn end(mut self) {
        self.kill_group();
        self.child.wait().await.expect("ended");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Returns the value of WebDriver's response.
async fn ask(request: reqwest::RequestBuilder) -> Value {
    let response = soon(request.send()).await.expect("an answer");
    let status = response.status();
    let mut answer: Value = response.json().await.expect("JSON");
    assert!(status.is_success(), "{status}: {answer}");
    answer["value"].take()
}

async fn order_in_a_browser(orm: Orm) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let local = local().await;
    let shop = Shop::open(orm, &lakebase(&local)).await;
    let page = format!("{}/", shop.url);
    browser.open(&page).await;

    browser.fill_in("Your name", "Ann").await;
    browser.fill_in("Item", "tea & <b>milk</b>").await;
    browser.fill_in("Price", "cheap").await;
    browser.press("Order").await;
    let complaint = "//p[label = 'Price']/*[@role = 'alert' and contains(., 'price')]";
    browser.find(complaint).await;

    // The other fields keep their values.
    browser.fill_in("Price", "12.5").await;
    browser.press("Order").await;
    browser
        .find("//tr[td[2] = 'Ann' and td[3] = 'tea & <b>milk</b>' and td[4] = '12.50']")
        .await;
    assert_eq!(browser.current_url().await, page);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_placed_in_a_browser_is_on_the_page_with_diesel() {
    order_in_a_browser(Orm::Diesel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_placed_in_a_browser_is_on_the_page_with_seaorm() {
    order_in_a_browser(Orm::SeaOrm).await;
}
