//! 200 clients at once: the API, beside a bare axum handler that reads the same, each in a process of its own.

use super::pages::start_api;
use crate::{
    bare::api::BareApi,
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    ground::Ground,
    plan::{CLIENTS, Options, Plan},
    progress::Progress,
};
use orion_testkit::random_word;
use std::time::{Duration, Instant};

/// Clients at once, each with a connection of its own.
const CONCURRENT: usize = 200;
/// Leases of the user who asks.
const LEASES: usize = 20;
/// Connections to the database, of either side: the control plane's default.
const CONNECTIONS: u32 = 16;
/// Longest wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Results of one round.
struct Round {
    per_s: f64,
    p99_ms: f64,
}

/// Samples of both sides of one route.
#[derive(Default)]
struct Sides {
    per_s: [Samples; 2],
    p99_ms: [Samples; 2],
}

/// The four `api_…` figures.
///
/// # Errors
/// When a request fails.
pub async fn measure(plan: &Plan, options: &Options) -> Result<Vec<Figure>, Broken> {
    let ground = Ground::start().await?;
    ground.register(LEASES * 2, 22).await?;
    ground.make_offerable().await?;
    let (_service, admin) = start_api(options, &ground).await?;
    let password = random_word();
    admin.sign_up("benchmark", &password).await?;
    let api = admin.log_in("benchmark", &password).await?;
    let user = ground.store.accounts().by_name("benchmark").await.context("the user")?;
    let user = user.ok_or_else(|| Broken::new("the user who signed up is not there"))?.id;
    ground.place(user, LEASES).await?;
    // Without a scheduler /api/health answers 503; a real one would find these nodes dead.
    let beat = "INSERT INTO replicas (name, kind, beat_at) VALUES ('benchmark', 'scheduler', ?)";
    let far_ahead = ground.now().plus(Duration::from_secs(3600)).as_micros();
    sqlx::query(beat).bind(far_ahead).execute(&ground.sql).await.context("a scheduler's beat")?;
    let bare = BareApi::start(&ground.url, CONNECTIONS).await?;
    let routes = [
        ("rentals", api.url("/api/rentals"), format!("{}/rentals/{}", bare.base, user.0)),
        ("health", api.url("/api/health"), format!("{}/health", bare.base)),
    ];
    let mut figures = Vec::new();
    for ((what, ours, theirs), names) in routes.into_iter().zip(CLIENTS.chunks(2)) {
        let mut sides = Sides::default();
        let mut progress = Progress::start(&format!("{CONCURRENT} clients at {what}"), plan.client_rounds);
        for round in 0..plan.client_rounds {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                let (url, token) = if side == 0 { (&ours, api.token()) } else { (&theirs, "") };
                let taken = load(url.clone(), token.to_owned(), plan.client_round).await?;
                sides.per_s[side].push(taken.per_s);
                sides.p99_ms[side].push(taken.p99_ms);
            }
            progress.step(&format!(
                "API {:.0}/s, bare {:.0}/s",
                sides.per_s[0].median(),
                sides.per_s[1].median()
            ));
        }
        figures.extend(as_figures(names, what, sides));
    }
    Ok(figures)
}

fn as_figures(names: &[&'static str], what: &str, sides: Sides) -> Vec<Figure> {
    let what_bare = match what {
        "rentals" => {
            "one query, no authorization (the API reads the caller's account besides, and more of the nodes; the \
             clients are one account, so that those who ask at once share both queries)"
        }
        _ => {
            "one query (the API opens a transaction and reads the replicas and the brake; who asks meanwhile shares that)"
        }
    };
    let figure = |name, unit, [ours, floor]: [Samples; 2]| Figure {
        name,
        unit,
        samples: ours,
        floor: Some(floor),
        // What authorization and the rest of the API may cost.
        goal: if name == CLIENTS[0] { Goal::RatioAtLeast(0.7) } else { Goal::Shown },
        note: format!("GET /api/{what} by {CONCURRENT} clients; floor: a bare axum handler, {what_bare}"),
    };
    let [per_s, p99] = names else { return Vec::new() };
    vec![figure(per_s, "/s", sides.per_s), figure(p99, "ms", sides.p99_ms)]
}

/// Asks again and again from [`CONCURRENT`] clients for `long`.
async fn load(url: String, token: String, long: Duration) -> Result<Round, Broken> {
    let work = move || {
        let runtime = tokio::runtime::Runtime::new().context("a runtime")?;
        runtime.block_on(ask(&url, &token, long))
    };
    tokio::task::spawn_blocking(work).await.context("the clients")?
}

async fn ask(url: &str, token: &str, long: Duration) -> Result<Round, Broken> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(REPLY_TIMEOUT)
        .pool_max_idle_per_host(CONCURRENT)
        .build()
        .context("making an HTTP client")?;
    let started = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENT {
        let mut request = http.get(url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let request = request.build().context("a request")?;
        let http = http.clone();
        clients.spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < long {
                let again = request.try_clone().ok_or_else(|| Broken::new("a request with a stream"))?;
                let asked = Instant::now();
                let response = http.execute(again).await.context("a request")?;
                let status = response.status();
                let body = response.bytes().await.context("a reply")?;
                times.push(asked.elapsed());
                if !status.is_success() {
                    return Err(Broken::new(format!("{status}: {}", String::from_utf8_lossy(&body))));
                }
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(joined) = clients.join_next().await {
        times.extend(joined.context("a client")??);
    }
    let elapsed = started.elapsed();
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100).saturating_sub(1);
    let p99 = times.get(rank).ok_or_else(|| Broken::new("no reply came"))?;
    Ok(Round { per_s: times.len() as f64 / elapsed.as_secs_f64(), p99_ms: p99.as_secs_f64() * 1e3 })
}
