//! The promises, one module each, named after it.

mod api_outage;
mod cancellation;
mod connection_limit;
mod diesel_programs;
mod discovery;
mod failover;
mod half_open;
mod herd;
mod hopeless_login;
mod migrations;
mod native_password;
mod official_clients;
mod open_transactions;
mod platform_errors;
mod pool_end;
mod pool_names_the_cause;
mod rate_limit;
mod refused_login;
mod revoked_token;
mod rotation;
mod running_postgres;
mod seaorm_programs;
mod stopped_process;
mod suspend;
mod tls;
mod wrong_clock;
