//! `/metrics`: text that a scraper can read, and the board over it.

use crate::api::{Api, Database};
use orion_fleet::metrics::OPEN_METRICS;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One family of the text: what its `TYPE` says, and its samples, each with its labels as they stand there.
#[derive(Default)]
struct Family {
    kind: String,
    samples: Vec<(String, String, f64)>,
}

/// Reads OpenMetrics text as strictly as the specification has it, where Orion's text uses it.
#[track_caller]
fn read(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut current, mut helped) = (String::new(), BTreeSet::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').expect(line);
            let (name, value) = rest.split_once(' ').expect(line);
            assert!(!value.is_empty(), "{line}");
            match word {
                "HELP" => assert!(helped.insert(name.to_owned()), "twice: {line}"),
                "TYPE" => {
                    let known =
                        families.insert(name.to_owned(), Family { kind: value.into(), ..Family::default() });
                    assert!(known.is_none(), "twice: {line}");
                    current = name.to_owned();
                }
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                other => panic!("'{other}' in {line}"),
            }
            continue;
        }
        let (name_and_labels, value) = line.rsplit_once(' ').expect(line);
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        let (name, labels) = match name_and_labels.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (name_and_labels, ""),
        };
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').expect(line);
            assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(line);
            assert!(!quoted.contains(['"', '\\', '\n']), "{line}");
        }
        let family = families.get_mut(&current).unwrap_or_else(|| panic!("no TYPE before {line}"));
        let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} stands under {current}"));
        let allowed: &[&str] = match family.kind.as_str() {
            "gauge" => &[""],
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("no type '{other}'"),
        };
        assert!(allowed.contains(&suffix), "{line} in a {}", family.kind);
        assert!(value >= 0.0, "{line}");
        let known = family.samples.iter().any(|(n, l, _)| n == name && l == labels);
        assert!(!known, "twice: {line}");
        family.samples.push((name.to_owned(), labels.to_owned(), value));
    }
    assert_eq!(helped, families.keys().cloned().collect(), "each family has a help");
    for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        check_histogram(name, family);
    }
    families
}

/// Buckets grow, the last is `+Inf`, and it is the count.
#[track_caller]
fn check_histogram(name: &str, family: &Family) {
    let counts = family.samples.iter().filter(|(sample, ..)| sample.ends_with("_count"));
    for (_, labels, count) in counts {
        let of_it = |sample: &str, found: &str| {
            let rest: Vec<&str> = found.split(',').filter(|label| !label.starts_with("le=")).collect();
            sample.ends_with("_bucket") && rest.join(",") == *labels
        };
        let buckets: Vec<(f64, f64)> = family
            .samples
            .iter()
            .filter(|(sample, found, _)| of_it(sample, found))
            .map(|(_, found, value)| {
                let le = found.split(',').find_map(|label| label.strip_prefix("le=\"")).expect("le");
                let le = le.trim_end_matches('"').replace("+Inf", "inf").parse().expect("a number");
                (le, *value)
            })
            .collect();
        assert!(
            buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
            "{name}: {buckets:?}"
        );
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}{{{labels}}}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_is_open_metrics_and_has_no_line_for_a_node() {
    let api = Api::start(Database::Sqlite).await;
    api.app.fleet.metrics.schedule();
    api.user("alice").await;
    api.active_lease("alice").await;
    let before = api.get("/metrics", "").await;
    assert_eq!(before.header("content-type"), OPEN_METRICS);
    let families = read(&before.text);
    for (name, kind) in [
        ("orion_leases", "gauge"),
        ("orion_nodes", "gauge"),
        ("orion_brake_engaged", "gauge"),
        ("orion_agent_links", "gauge"),
        ("orion_events_streams", "gauge"),
        ("orion_build_info", "gauge"),
        ("orion_reconcile", "counter"),
        ("orion_database_retries", "counter"),
        ("orion_webhook_deliveries", "counter"),
        ("orion_rent_to_login_seconds", "histogram"),
        ("orion_death_to_moved_seconds", "histogram"),
        ("orion_probe_seconds", "histogram"),
    ] {
        assert_eq!(
            families.get(name).map(|family| family.kind.as_str()),
            Some(kind),
            "{name}\n{}",
            before.text
        );
    }
    for number in 0..20 {
        api.offered_node(&format!("spare-{number}")).await;
    }
    let after = api.get("/metrics", "").await;
    assert_eq!(after.text.lines().count(), before.text.lines().count(), "as many lines with more nodes");
    assert!(after.text.contains("orion_nodes{health=\"alive\"} 21"), "{}", after.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_counted_while_it_is_open() {
    let api = Api::start(Database::Sqlite).await;
    let alice = api.user("alice").await;
    let count = async || {
        let text = api.get("/metrics", "").await.text;
        read(&text)["orion_events_streams"].samples[0].2
    };
    assert_eq!(count().await, 0.0);
    let stream =
        api.request(reqwest::Method::GET, "/api/events").bearer_auth(&alice).send().await.expect("a feed");
    assert_eq!(count().await, 1.0);
    drop(stream);
    orion_testkit::wait_until("it is over", std::time::Duration::from_secs(10), async || {
        (count().await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_board_is_one_that_there_is() {
    let api = Api::start(Database::Sqlite).await;
    api.app.fleet.metrics.schedule();
    api.app.fleet.metrics.examined(Some(&[]));
    api.app.fleet.metrics.task_added("expire");
    api.app.fleet.metrics.task_succeeded("expire", api.app.now());
    let families = read(&api.get("/metrics", "").await.text);
    let samples: BTreeSet<String> = families
        .iter()
        .flat_map(|(name, family)| match family.kind.as_str() {
            "counter" => vec![format!("{name}_total")],
            "histogram" => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
            _ => vec![name.clone()],
        })
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/orion.json");
    let board: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the board")).expect("JSON");
    let mut queries = Vec::new();
    collect(&board, &mut queries);
    assert!(queries.len() >= 12, "{queries:?}");
    let mut named = BTreeSet::new();
    for query in &queries {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = query.split(|c: char| !is_name(c)).filter(|word| word.starts_with("orion_"));
        for word in words {
            assert!(samples.contains(word), "'{word}' in '{query}' is no metric of Orion");
            named.insert(word.to_owned());
        }
        assert!(query.contains("orion_"), "{query}");
    }
    let shown = |name: &str| named.iter().any(|word| word.starts_with(name));
    for name in families.keys().filter(|name| *name != "orion_build_info") {
        assert!(shown(name), "the board does not show {name}");
    }
    let mut ids = BTreeSet::new();
    for panel in board["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_i64().expect("a number")), "{panel}");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
    }
}

fn collect(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            queries.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect(value, queries));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, queries)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
