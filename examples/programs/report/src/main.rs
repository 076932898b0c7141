//! A report on the command line, with synchronous diesel: the customers with the highest sales. One connection is enough, so
//! there is no pool, and no runtime. It needs libpq.
//!
//! ```sh
//! export LAKEBASE_SCHEMA=app
//! lakebase local -- sh -c 'lakebase exec psql -qf examples/programs/report/orders.sql && cargo run -p report -- --top 3'
//! ```

use std::error::Error;
use std::iter;
use std::process::ExitCode;

use diesel::dsl::{count_star, sum};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use lakebase_diesel::Lakebase;

diesel::table! {
    orders (id) {
        id -> BigInt,
        customer -> Text,
        cents -> Integer,
    }
}

const USAGE: &str = "\
Prints the customers with the highest sales.

Usage: report [--top N] [--customer PATTERN]

  --top N             at most N customers [default: 10]
  --customer PATTERN  only customers whose name is LIKE the pattern [default: %]";

struct Arguments {
    top: i64,
    customer: String,
}

impl Arguments {
    /// Returns `None` if the arguments ask for help.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, Box<dyn Error>> {
        let mut parsed = Self {
            top: 10,
            customer: "%".to_owned(),
        };
        while let Some(option) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{option} needs a value"));
            match option.as_str() {
                "--top" => {
                    parsed.top = value()?
                        .parse()
                        .map_err(|error| format!("--top: {error}"))?
                }
                "--customer" => parsed.customer = value()?,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{option} is not an option\n\n{USAGE}").into()),
            }
        }
        Ok(Some(parsed))
    }
}

#[derive(Queryable)]
struct Sales {
    customer: String,
    orders: i64,
    cents: i64,
}

fn sales(connection: &mut PgConnection, arguments: &Arguments) -> QueryResult<Vec<Sales>> {
    let total = sum(orders::cents).assume_not_null();
    orders::table
        .filter(orders::customer.like(&arguments.customer))
        .group_by(orders::customer)
        .select((orders::customer, count_star(), total))
        .order((total.desc(), orders::customer))
        .limit(arguments.top)
        .load(connection)
}

fn report() -> Result<(), Box<dyn Error>> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let lakebase = Lakebase::from_env()?;
    let mut connection = lakebase_diesel::r2d2::establish(&lakebase)?;
    let rows = sales(&mut connection, &arguments)?;

    println!("{:<20} {:>6} {:>12}", "customer", "orders", "total");
    for row in rows {
        let total = row.cents as f64 / 100.0;
        println!("{:<20} {:>6} {total:>12.2}", row.customer, row.orders);
    }
    Ok(())
}

fn main() -> ExitCode {
    match report() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The text of Postgres or of the workspace is the cause of our error.
            let causes = iter::successors(Some(error.as_ref()), |&error| error.source());
            let texts: Vec<_> = causes.map(ToString::to_string).collect();
            eprintln!("report: {}", texts.join(": "));
            ExitCode::FAILURE
        }
    }
}
