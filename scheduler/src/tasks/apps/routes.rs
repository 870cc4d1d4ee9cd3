//! Routes of Caddy in its own JSON, made of what the database says. Pure.

use orion_domain::{LeaseId, container::APP_COOKIE};
use orion_fleet::Apps as Settings;
use orion_store::PublishedApp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Path at which the API is asked whether a visitor may come in; `?` drops the visitor's own query.
const AUTH_URI: &str = "/api/apps/auth?";
/// Longest wait for a connection to a container or to the API.
const DIAL_TIMEOUT: &str = "2s";

/// Returns the routes of all ports, and what answers for other names. Where two containers of a lease have the same port, the
/// first one has the name.
pub(super) fn routes(apps: &[PublishedApp], settings: &Settings) -> Value {
    let mut routes = Vec::new();
    let mut named: BTreeSet<(LeaseId, u16)> = BTreeSet::new();
    let mut begun: BTreeSet<LeaseId> = BTreeSet::new();
    for app in apps {
        let is_public = serde_json::from_str::<Value>(&app.spec).is_ok_and(|spec| spec["public"] == true);
        for port in &app.ports {
            if !named.insert((app.lease, port.port)) {
                continue;
            }
            let mut hosts = vec![settings.domain.host(app.lease, port.port)];
            if begun.insert(app.lease) {
                hosts.push(settings.domain.first_host(app.lease));
            }
            // Nobody comes in as an owner who is shut out.
            if !is_public && !app.is_enabled {
                continue;
            }
            let chain = json!([
                asked(app, port.port, is_public, settings),
                { "handle": [stripped()] },
                { "handle": [proxy(&format!("{}:{}", app.addr, port.node_port))] },
            ]);
            routes.push(json!({
                "match": [{ "host": hosts }],
                "handle": [{ "handler": "subroute", "routes": chain }],
                "terminal": true,
            }));
        }
    }
    routes.push(json!({ "handle": [{
        "handler": "static_response", "status_code": 404, "body": "nothing is published under this name\n",
    }] }));
    Value::Array(routes)
}

fn proxy(dial: &str) -> Value {
    json!({
        "handler": "reverse_proxy",
        "upstreams": [{ "dial": dial }],
        "transport": { "protocol": "http", "dial_timeout": DIAL_TIMEOUT },
    })
}

/// Asks the API first; what it answers but a success is the visitor's reply. A public port asks only about a token that may
/// be one of the API's own, which no container gets.
fn asked(app: &PublishedApp, port: u16, is_public: bool, settings: &Settings) -> Value {
    let upstreams: Vec<Value> = settings.auth.iter().map(|dial| json!({ "dial": dial })).collect();
    // With the owner's generation: connections that rest on an older one end when the routes change.
    let name = match is_public {
        true => format!("{}-{port} public", app.lease),
        false => format!("{}-{port} {}", app.lease, app.generation),
    };
    let said = |header: &str| format!("{{http.reverse_proxy.header.{header}}}");
    let when = |header: &str, value: &str| json!({ "vars": { said(header): [value] } });
    let renewed = json!({
        "match": [{ "not": [when("Set-Cookie", "")] }],
        "handle": [{
            "handler": "headers",
            "response": { "deferred": true, "add": { "Set-Cookie": [said("Set-Cookie")] } },
        }],
    });
    let own_token = json!({
        "match": [when("Orion-Drop", "authorization")],
        "handle": [{ "handler": "headers", "request": { "delete": ["Authorization"] } }],
    });
    let ask = json!({
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "transport": { "protocol": "http", "dial_timeout": DIAL_TIMEOUT, "response_header_timeout": "10s" },
        "load_balancing": { "try_duration": "3s", "try_interval": "100ms" },
        "health_checks": { "passive": { "fail_duration": "2s" } },
        "rewrite": { "method": "GET", "uri": AUTH_URI },
        "headers": { "request": { "set": {
            "X-Forwarded-Method": ["{http.request.method}"],
            "X-Forwarded-Uri": ["{http.request.uri}"],
            "Orion-App": [name],
        } } },
        "handle_response": [{ "match": { "status_code": [2] }, "routes": [renewed, own_token] }],
    });
    match is_public {
        true => json!({ "match": [{ "header": { "Authorization": ["*"] } }], "handle": [ask] }),
        false => json!({ "handle": [ask] }),
    }
}

/// Takes from a request what is none of the container's business.
fn stripped() -> Value {
    let cookie = format!("(^|; *){APP_COOKIE}=[^;]*");
    json!({
        "handler": "headers",
        "request": {
            "delete": ["X-Forwarded-User", "Orion-App", "Orion-Drop"],
            "replace": { "Cookie": [
                { "search_regexp": cookie, "replace": "" },
                { "search_regexp": "^; *", "replace": "" },
            ] },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_store::NodePort;

    fn app(lease: i64, number: u32, port: u16, public: bool) -> PublishedApp {
        PublishedApp {
            lease: LeaseId(lease),
            number,
            spec: json!({ "public": public }).to_string(),
            ports: vec![NodePort { port, node_port: 20_000 + u16::try_from(number).unwrap() }],
            addr: "10.0.0.7".into(),
            generation: 3,
            is_enabled: true,
        }
    }

    fn settings() -> Settings {
        Settings {
            domain: "apps.example.org".parse().unwrap(),
            caddy: Vec::new(),
            auth: vec!["10.0.0.1:8080".into()],
        }
    }

    #[test]
    fn each_port_has_a_name_and_its_owner_is_asked_for_unless_it_is_public() {
        let apps = [
            app(17, 1, 8080, false),
            app(17, 2, 8080, false),
            app(17, 3, 9090, true),
            app(18, 1, 8080, false),
        ];
        let routes = routes(&apps, &settings());
        let hosts: Vec<&Value> =
            routes.as_array().unwrap().iter().map(|route| &route["match"][0]["host"]).collect();
        assert_eq!(hosts[0], &json!(["17-8080.apps.example.org", "17.apps.example.org"]));
        assert_eq!(
            hosts[1],
            &json!(["17-9090.apps.example.org"]),
            "the second of a lease with that port has no name"
        );
        assert_eq!(hosts[2], &json!(["18-8080.apps.example.org", "18.apps.example.org"]));
        assert_eq!(hosts[3], &Value::Null, "what answers for all other names");
        let chain = |route: usize| &routes[route]["handle"][0]["routes"];
        assert_eq!(chain(0)[0]["match"], Value::Null, "the API is asked always");
        assert_eq!(chain(1)[0]["match"], json!([{ "header": { "Authorization": ["*"] } }]));
        assert_eq!(chain(0)[2]["handle"][0]["upstreams"], json!([{ "dial": "10.0.0.7:20001" }]));
    }

    #[test]
    fn what_ends_a_right_changes_the_routes() {
        let before = app(17, 1, 8080, false);
        let of = |app: &PublishedApp| routes(std::slice::from_ref(app), &settings());
        assert_ne!(of(&before), of(&PublishedApp { generation: 4, ..before.clone() }), "a logout");
        let shut_out = of(&PublishedApp { is_enabled: false, ..before });
        assert_eq!(shut_out.as_array().unwrap().len(), 1, "{shut_out}");
    }
}
