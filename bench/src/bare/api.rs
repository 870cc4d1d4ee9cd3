//! The API's two busiest routes by hand: axum, sqlx, serde; no authorization, no limits, no request ids.

use super::rows;
use crate::{
    broken::{Broken, Context as _},
    child::dies_with_us,
    ground::CONNECTIONS,
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use clap::Args;
use sqlx::{MySqlPool, mysql::MySqlPoolOptions};
use std::{net::Ipv4Addr, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Child,
};

/// Arguments of the process; the URL of its database is in `BENCH_DATABASE_URL`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Connections to the database
    #[arg(long, default_value_t = CONNECTIONS)]
    connections: u32,
}

/// Serves until it is killed; says its port on standard output first.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(options: &Serve) -> Result<(), Broken> {
    let url = std::env::var("BENCH_DATABASE_URL").context("BENCH_DATABASE_URL")?;
    let pool = MySqlPoolOptions::new().max_connections(options.connections).connect(&url).await;
    let pool = pool.context("the database")?;
    let routes =
        Router::new().route("/rentals/{user}", get(rentals)).route("/health", get(health)).with_state(pool);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening")?;
    println!("{}", listener.local_addr().context("the port")?.port());
    axum::serve(listener, routes).await.context("serving")
}

async fn rentals(
    State(pool): State<MySqlPool>,
    Path(user): Path<i64>,
) -> Result<Json<Vec<rows::RentalRow>>, StatusCode> {
    rows::rentals(&pool, user, 100).await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn health(State(pool): State<MySqlPool>) -> Result<Json<String>, StatusCode> {
    let read = sqlx::query_as::<_, (String,)>("SELECT value FROM settings WHERE name = 'next_uid'");
    let row = read.fetch_one(&pool).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(Json(row.0))
}

/// The process, as the one that started it sees it. It is killed when this is dropped.
pub struct BareApi {
    _child: Child,
    /// `http://127.0.0.1:PORT`
    pub base: String,
}

impl BareApi {
    /// Starts it on this database.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(url: &str, connections: u32) -> Result<Self, Broken> {
        let program = std::env::current_exe().context("this program")?;
        let mut child = dies_with_us(program.as_os_str())
            .args(["bare-api", "--connections", &connections.to_string()])
            .env("BENCH_DATABASE_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the bare API")?;
        let stdout = child.stdout.take().ok_or_else(|| Broken::new("the bare API has no output"))?;
        let port = BufReader::new(stdout).lines().next_line().await.context("the bare API")?;
        let port = port.ok_or_else(|| Broken::new("the bare API has ended"))?;
        Ok(Self { _child: child, base: format!("http://127.0.0.1:{port}") })
    }
}
