//! The promises, one module each, named after it.

mod connection_limit;
mod diesel_programs;
mod discovery;
mod failover;
mod half_open;
mod herd;
mod migrations;
mod native_password;
mod official_clients;
mod open_transactions;
mod outage;
mod platform_errors;
mod pool_end;
mod pool_names_the_cause;
mod refused_login;
mod rotation;
mod running_postgres;
mod seaorm_programs;
mod suspend;
mod tls;
