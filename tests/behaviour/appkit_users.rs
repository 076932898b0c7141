//! The same requests of many users through `UserPools` and through `asUser` of the official Node AppKit. The table in
//! `docs/many-users.md` has the results.
//!
//! `tests/clients/install.sh appkit` installs AppKit. Without it, its tests are skipped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use diesel::sql_types::Text;
use diesel_async::RunQueryDsl as _;
use futures_util::future::try_join_all;
use lakebase_core::User;
use lakebase_core::users::UserPools;
use lakebase_diesel::bb8;
use lakebase_local::{Event, EventKind, LocalLakebase};
use lakebase_tests::{lakebase, local, logins, minted, soon};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const HOUR: Duration = Duration::from_secs(3600);
const ANA: &str = "ana@example.com";
const BO: &str = "bo@example.com";
/// More users than the pools have connections for.
const CROWD: usize = 25;

/// Without FORCE: the owner sees all rows.
const NOTES: &str = "CREATE TABLE notes (owner TEXT NOT NULL DEFAULT current_user, text TEXT NOT NULL); \
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY; \
    CREATE POLICY own ON notes USING (owner = current_user); \
    GRANT SELECT ON notes TO PUBLIC; \
    INSERT INTO notes VALUES ('ana@example.com', 'hers'), ('bo@example.com', 'his')";

enum Application {
    Ours(UserPools<bb8::Pool>),
    AppKit {
        _process: Box<Child>,
        requests: ChildStdin,
        answers: Lines<BufReader<ChildStdout>>,
    },
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    text: String,
}

async fn query(pool: &bb8::Pool) -> Result<Vec<String>, String> {
    let mut connection = pool.get().await.map_err(|error| error.to_string())?;
    let rows: Result<Vec<Row>, _> = diesel::sql_query("SELECT text FROM notes")
        .load(&mut connection)
        .await;
    let rows = rows.map_err(|error| error.to_string())?;
    Ok(rows.into_iter().map(|row| row.text).collect())
}

impl Application {
    /// Returns `None` if AppKit is not installed.
    fn appkit(local: &LocalLakebase, mode: &str) -> Option<Self> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        if !clients.join("node_modules/@databricks/appkit").exists() {
            lakebase_tests::tell("SKIPPED AppKit: run tests/clients/install.sh appkit");
            return None;
        }
        let started = Command::new("node")
            .arg("appkit_users.mjs")
            .current_dir(clients)
            .envs(local.env())
            // With a personal access token, because its OAuth client ignores the port of the host.
            .env_remove("DATABRICKS_CLIENT_ID")
            .env_remove("DATABRICKS_CLIENT_SECRET")
            .env("DATABRICKS_TOKEN", local.user_token())
            .env("PGUSER", local.user())
            .env("NODE_ENV", mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut process) = started else {
            lakebase_tests::tell("SKIPPED AppKit: node is not on PATH");
            return None;
        };
        let requests = process.stdin.take().expect("an input");
        let answers = process.stdout.take().expect("an output");
        Some(Self::AppKit {
            _process: Box::new(process),
            requests,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Sends a request for each token at the same time, with this number of queries each. All queries return the same rows.
    async fn request(
        &mut self,
        email: &str,
        tokens: &[&str],
        times: usize,
    ) -> Result<Vec<String>, String> {
        match self {
            Self::Ours(pools) => {
                let requests = tokens.iter().map(async |token| {
                    let user = User::new(email, (*token).to_owned());
                    let pool = pools.get(&user).await.map_err(|error| error.chain())?;
                    try_join_all((0..times).map(|_| query(&pool))).await
                });
                let rows = try_join_all(requests).await?;
                Ok(same(rows.into_iter().flatten().collect()))
            }
            Self::AppKit {
                requests, answers, ..
            } => {
                let headers = |token: &&str| match token.is_empty() {
                    true => json!({ "x-forwarded-email": email, "x-forwarded-user": email }),
                    false => json!({
                        "x-forwarded-email": email,
                        "x-forwarded-user": email,
                        "x-forwarded-access-token": token,
                    }),
                };
                let headers: Vec<Value> = tokens.iter().map(headers).collect();
                let line = format!("{}\n", json!({ "requests": headers, "times": times }));
                requests.write_all(line.as_bytes()).await.expect("sent");
                let answer = loop {
                    let line = answers.next_line().await.expect("text").expect("a line");
                    if let Some(answer) = line.strip_prefix("ANSWER ") {
                        break serde_json::from_str::<Value>(answer).expect("JSON");
                    }
                };
                if let Some(error) = answer["error"].as_str() {
                    return Err(error.to_owned());
                }
                let rows = serde_json::from_value(answer["rows"].clone());
                Ok(same(rows.expect("rows")))
            }
        }
    }
}

fn same(rows: Vec<Vec<String>>) -> Vec<String> {
    assert!(rows.windows(2).all(|pair| pair[0] == pair[1]), "{rows:?}");
    rows.into_iter().next().unwrap_or_default()
}

/// Logins and minted credentials of users, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    connections: usize,
    mints: usize,
}

fn used(local: &LocalLakebase) -> Used {
    let events = local.events();
    let is_users = |user: &str| user.ends_with("@example.com");
    Used {
        connections: logins(&events)
            .iter()
            .filter(|(_, login)| is_users(&login.user))
            .count(),
        mints: minted(&events).len(),
    }
}

fn cost(connections: usize, mints: usize) -> Used {
    Used { connections, mints }
}

/// The rows, and the cost of each step.
#[derive(Debug)]
struct Measured {
    rows: [Vec<String>; 2],
    ten_queries: Used,
    newer_token: Used,
    ten_requests_with_two_tokens_in_turns: Used,
    forged_email: (String, Used),
    after_it: Used,
    two_tokens_at_the_same_time: Result<Vec<String>, String>,
}

async fn measure(local: &LocalLakebase, mut application: Application) -> Measured {
    let token = |person: &str| local.forwarded_token(person, HOUR, &["postgres"]);
    for person in [ANA, BO]
        .into_iter()
        .map(str::to_owned)
        .chain((0..CROWD).map(nth))
    {
        local.add_user(&person);
        local.create_role(&person).await.expect("a role");
    }
    let (of_ana, of_bo, newer) = (token(ANA), token(BO), token(ANA));
    let mut before = used(local);
    let mut spent = || {
        let now = used(local);
        let earlier = std::mem::replace(&mut before, now);
        cost(
            now.connections - earlier.connections,
            now.mints - earlier.mints,
        )
    };
    let mut request = async |email: &str, tokens: &[&str], times| {
        soon(application.request(email, tokens, times)).await
    };
    let rows_of_bo = request(BO, &[&of_bo], 1).await.expect("rows");
    spent();
    let rows_of_ana = request(ANA, &[&of_ana], 10).await.expect("rows");
    // The third login may finish after all queries.
    let logins_of_ana = |events: &[Event]| {
        logins(events)
            .iter()
            .filter(|(_, login)| login.user == ANA)
            .count()
    };
    soon(local.wait_until(|events| logins_of_ana(events) == 3)).await;
    let ten_queries = spent();
    request(ANA, &[&newer], 1).await.expect("rows");
    let newer_token = spent();
    for _ in 0..5 {
        request(ANA, &[&of_ana], 1).await.expect("rows");
        request(ANA, &[&newer], 1).await.expect("rows");
    }
    let ten_requests_with_two_tokens_in_turns = spent();
    let error = request(ANA, &[&of_bo], 1)
        .await
        .expect_err("no rows of hers");
    let forged_email = (error, spent());
    request(ANA, &[&newer], 1).await.expect("rows");
    let after_it = spent();
    for person in (0..CROWD).map(nth) {
        request(&person, &[&token(&person)], 3)
            .await
            .expect("no rows");
    }
    let both = [of_bo.as_str(), &token(BO)];
    Measured {
        rows: [rows_of_ana, rows_of_bo],
        ten_queries,
        newer_token,
        ten_requests_with_two_tokens_in_turns,
        forged_email,
        after_it,
        two_tokens_at_the_same_time: request(BO, &both, 10).await,
    }
}

fn is_in_crowd(user: &str) -> bool {
    user.starts_with("user")
}

/// Counts the open sessions of the crowd.
fn open_sessions(events: &[Event]) -> i64 {
    let each = events.iter().map(|event| match &event.kind {
        EventKind::LoggedIn(login) if is_in_crowd(&login.user) => 1,
        EventKind::Ended { user } if is_in_crowd(user) => -1,
        _ => 0,
    });
    each.sum()
}

fn nth(n: usize) -> String {
    format!("user{n}@example.com")
}

fn assert_rows_and_reason(measured: &Measured) {
    assert_eq!(measured.rows, [["hers"], ["his"]]);
    let (reason, _) = &measured.forged_email;
    assert!(reason.contains("did not match"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn user_pools_keep_their_connections_when_tokens_change() {
    let local = local().await;
    local.sql(NOTES).await.expect("notes");
    let pools = bb8::user_pools(&lakebase(&local)).build();
    let measured = measure(&local, Application::Ours(pools)).await;
    assert_rows_and_reason(&measured);
    assert_eq!(measured.ten_queries, cost(3, 1));
    // A login checks the token.
    assert_eq!(measured.newer_token, cost(1, 1));
    let in_turns = measured.ten_requests_with_two_tokens_in_turns;
    assert_eq!(in_turns, cost(0, 0));
    // The login is retried with a fresh credential.
    assert_eq!(measured.forged_email.1, cost(0, 2));
    assert_eq!(measured.after_it, cost(0, 0));
    let both = measured.two_tokens_at_the_same_time;
    assert_eq!(both.expect("rows"), ["his"]);
    // Sessions end a moment after their pool is closed.
    soon(local.wait_until(|events| open_sessions(events) <= 60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appkit_opens_another_pool_when_the_token_changes() {
    let local = local().await;
    local.sql(NOTES).await.expect("notes");
    let Some(appkit) = Application::appkit(&local, "production") else {
        return;
    };
    let measured = measure(&local, appkit).await;
    assert_rows_and_reason(&measured);
    assert_eq!(measured.ten_queries, cost(3, 1));
    assert_eq!(measured.newer_token, cost(1, 1));
    let in_turns = measured.ten_requests_with_two_tokens_in_turns;
    assert_eq!(in_turns, cost(10, 10));
    assert_eq!(measured.forged_email.1, cost(0, 1));
    assert_eq!(measured.after_it, cost(1, 1));
    let both = measured.two_tokens_at_the_same_time;
    let error = both.expect_err("queries of the pool that was closed");
    assert!(error.starts_with("10 failed: Error: timeout"), "{error}");
    let events = local.events();
    let crowd = logins(&events);
    let crowd = crowd.iter().filter(|(_, login)| is_in_crowd(&login.user));
    assert_eq!(crowd.count(), 3 * CROWD);
}

/// With `UserPools`, a user without a token is an error.
#[tokio::test(flavor = "multi_thread")]
async fn appkit_queries_as_the_application_in_development_without_a_token() {
    let local = local().await;
    local.sql(NOTES).await.expect("notes");
    let owner = format!("ALTER TABLE notes OWNER TO \"{}\"", local.user());
    local.sql(&owner).await.expect("an owner");
    for (mode, rows) in [("production", None), ("development", Some(["hers", "his"]))] {
        let Some(mut appkit) = Application::appkit(&local, mode) else {
            return;
        };
        let outcome = soon(appkit.request(BO, &[""], 1)).await.ok();
        assert_eq!(outcome, rows.map(|rows| rows.map(str::to_owned).to_vec()));
    }
}
