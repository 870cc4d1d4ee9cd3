use orion_testkit::{Answer, FakeApi, Home};
use serde_json::json;

#[test]
fn an_image_is_tested_with_its_size_and_its_absence_is_a_failure() {
    let api = FakeApi::start(|request, _| {
        let there = request.line.contains("debian");
        Answer::Json(
            200,
            json!({
                "image": if there { "docker.io/library/debian:12" } else { "docker.io/library/nothing:latest" },
                "exists": there, "reason": (!there).then_some("the registry has no such image"),
                "digest": there.then_some("sha256:a"), "platforms": if there { vec!["linux/amd64", "linux/arm64"] } else { vec![] },
                "platform": there.then_some("linux/amd64"), "layers": 1, "size_bytes": there.then_some(48_480_000),
                "on_node": null,
            }),
        )
    });
    let home = Home::logged_in(&api);
    let ended = home.run(&["image", "test", "debian:12"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in
        ["docker.io/library/debian:12", "sha256:a", "48.5 MB (linux/amd64)", "linux/amd64, linux/arm64"]
    {
        assert!(ended.out.contains(part), "{ended:?}");
    }
    let ended = home.run(&["image", "test", "nothing", "--platform", "linux/arm64"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(
        ended.err.contains("there is no image docker.io/library/nothing:latest: the registry has"),
        "{ended:?}"
    );
    assert_eq!(
        api.lines(),
        [
            "GET /api/images/test?image=debian%3A12",
            "GET /api/images/test?image=nothing&platform=linux%2Farm64"
        ]
    );
}

#[test]
fn a_login_at_a_registry_is_sent_from_standard_input_and_listed_without_its_password() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "GET /api/account/registries" => Answer::Json(
            200,
            json!([{ "registry": "ghcr.io", "username": "ada", "changed_at": "2026-01-01T00:00:00Z" }]),
        ),
        line if line.starts_with("PUT ") => Answer::Json(
            200,
            json!({ "registry": "ghcr.io", "username": "ada", "changed_at": "2026-01-01T00:00:00Z" }),
        ),
        _ => Answer::Json(200, json!({ "message": "Login forgotten" })),
    });
    let home = Home::logged_in(&api);
    let ended = home
        .run_with_input(&["image", "login", "ghcr.io", "--username", "ada", "--password-stdin"], "hush\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.err.contains("images of ghcr.io are pulled as ada") && !ended.err.contains("hush"),
        "{ended:?}"
    );
    let ended = home.run(&["image", "logins"]);
    assert!(ended.out.contains("ghcr.io") && ended.out.contains("ada"), "{ended:?}");
    assert_eq!(home.run(&["image", "logout", "ghcr.io"]).code, Some(0));
    let sent = api.seen();
    assert_eq!(sent[0].line, "PUT /api/account/registries/ghcr.io");
    assert_eq!(sent[0].json(), json!({ "username": "ada", "password": "hush" }));
    assert_eq!(sent[2].line, "DELETE /api/account/registries/ghcr.io");
}

#[test]
fn a_container_whose_image_is_pulled_is_waited_for_and_each_step_is_shown() {
    let container = |state: &str, step: Option<&str>| {
        json!({
            "name": "web", "state": state, "state_since": "2026-01-01T00:00:00Z", "state_reason": null, "image": "debian:12",
            "step": step, "bytes_done": 5, "bytes_total": 10,
        })
    };
    let api = FakeApi::start(move |request, number| match request.line.as_str() {
        "GET /api/rentals/1" => {
            Answer::Json(200, json!({ "rental_id": 1, "name": "train", "state": "active" }))
        }
        "POST /api/rentals/1/containers" => {
            Answer::Json(202, container("pulling", Some("pulling the image: 1 of 3 layers")))
        }
        "GET /api/rentals/1/containers/web" if number < 4 => {
            Answer::Json(200, container("pulling", Some("pulling the image: 2 of 3 layers")))
        }
        "GET /api/rentals/1/containers/web" => Answer::Json(200, container("running", None)),
        _ => Answer::Json(404, json!({ "detail": "no such lease" })),
    });
    let ended = Home::logged_in(&api).run(&["run", "1", "debian:12", "--name", "web"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "web\n"), "{ended:?}");
    for line in ["pulling the image: 1 of 3 layers", "pulling the image: 2 of 3 layers", "✔ web is running"]
    {
        assert!(ended.err.contains(line), "{ended:?}");
    }
    assert!(!ended.err.contains('\u{1b}') && !ended.err.contains('['), "not a terminal: {ended:?}");
}
