//! All nodes, page by page: the API, beside the bare query and serde_json.

use crate::{
    api::Api,
    bare::rows,
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    ground::Ground,
    plan::{Options, Plan},
    process::Service,
    progress::Progress,
};
use orion_testkit::{free_port, random_word};
use std::time::{Duration, Instant};

/// Nodes of a page: the most that the API gives.
const PAGE: u32 = 1_000;
/// Share of the nodes that have a lease: one in so many.
const LEASED: usize = 10;
/// Leases of one request.
const AT_ONCE: usize = 100;

/// `nodes_page_ms`.
///
/// # Errors
/// When anything fails, or a node is missing.
pub async fn measure(plan: &Plan, options: &Options) -> Result<Figure, Broken> {
    let ground = Ground::start().await?;
    let count = plan.page_nodes;
    let _registering = Progress::start(&format!("registering {count} nodes"), 0);
    ground.register(count, 22).await?;
    ground.make_offerable().await?;
    let user = ground.user("benchmark").await?;
    for _ in 0..count / LEASED / AT_ONCE {
        ground.place(user, AT_ONCE).await?;
    }
    let (_service, api) = start_api(options, &ground).await?;
    let (mut samples, mut floor) = (Samples::default(), Samples::default());
    by_hand(&ground, count).await?;
    by_api(&api, count).await?;
    let mut progress = Progress::start("all nodes, page by page", plan.page_rounds);
    for round in 0..plan.page_rounds {
        if round % 2 == 0 {
            floor.push_ms(by_hand(&ground, count).await?);
            samples.push_ms(by_api(&api, count).await?);
        } else {
            samples.push_ms(by_api(&api, count).await?);
            floor.push_ms(by_hand(&ground, count).await?);
        }
        progress.step(&format!("API {:.1} ms, bare {:.1} ms", samples.median(), floor.median()));
    }
    Ok(Figure {
        name: "nodes_page_ms",
        unit: "ms",
        samples,
        floor: Some(floor),
        goal: Goal::RatioAtMost(1.3),
        note: format!(
            "{count} nodes, one in {LEASED} leased, GET /api/nodes?limit={PAGE} until the last page; floor: one \
             query a page and serde_json, in this process"
        ),
    })
}

/// A replica of the API on the ground's database, and its admin logged in.
///
/// # Errors
/// When it does not come up.
pub async fn start_api(options: &Options, ground: &Ground) -> Result<(Service, Api), Broken> {
    let (listen, password) = (format!("127.0.0.1:{}", free_port()), random_word());
    let settings = [
        ("ORION_LISTEN", listen.as_str()),
        ("ORION_ADMIN_PASSWORD", password.as_str()),
        ("ORION_REQUESTS_OF_USER_PER_MINUTE", "0"),
        ("ORION_REQUESTS_OF_ADDRESS_PER_MINUTE", "0"),
    ];
    let service = Service::start(options, ground, "orion-control-plane", &settings)?;
    let anonymous = Api::anonymous(&format!("http://{listen}"))?;
    let started = Instant::now();
    while !anonymous.is_live().await {
        if started.elapsed() > Duration::from_secs(60) {
            return Err(Broken::new("the API does not answer").with_log(&service.log_tail()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let api = anonymous.log_in("admin", &password).await?;
    Ok((service, api))
}

async fn by_api(api: &Api, count: usize) -> Result<Duration, Broken> {
    let (mut cursor, mut bytes) = (Some(0), 0);
    let started = Instant::now();
    while let Some(after) = cursor {
        let page = api.nodes_page(after, PAGE).await?;
        bytes += page.bytes;
        cursor = page.next;
    }
    let elapsed = started.elapsed();
    if bytes > count * 100 {
        Ok(elapsed)
    } else {
        Err(Broken::new(format!("{count} nodes in {bytes} bytes")))
    }
}

async fn by_hand(ground: &Ground, count: usize) -> Result<Duration, Broken> {
    let (mut after, mut nodes) = (0, 0);
    let started = Instant::now();
    loop {
        let page = rows::nodes_page(&ground.sql, after, PAGE).await.context("the bare query")?;
        let text = serde_json::to_vec(&page).context("serde_json")?;
        std::hint::black_box(text);
        nodes += page.len();
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = last.id,
            Some(_) | None => break,
        }
    }
    let elapsed = started.elapsed();
    if nodes == count { Ok(elapsed) } else { Err(Broken::new(format!("{nodes} of {count} nodes"))) }
}
