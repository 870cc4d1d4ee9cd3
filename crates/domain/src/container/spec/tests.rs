use super::*;

fn request() -> ContainerRequest {
    ContainerRequest { image: "debian:12".into(), ..ContainerRequest::default() }
}

fn refused(request: ContainerRequest) -> String {
    ContainerSpec::check(request).expect_err("it is refused").to_string()
}

fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
}

fn full() -> ContainerSpec {
    ContainerSpec::check(ContainerRequest {
        command: vec!["sh".into(), "-c".into()],
        args: vec!["echo \"$A\"".into()],
        env: secrets(&[("A", "hunter2"), ("B", "")]),
        cpu_milli: Some(500),
        memory_mb: Some(256),
        gpus: 1,
        ports: vec![8080, 22],
        name: Some("web".into()),
        restart: Some("on-failure:3".into()),
        files: secrets(&[("/etc/app.conf", "key=hunter3\n"), ("/etc/app/x", "y")]),
        shm_mb: Some(128),
        public: true,
        ..request()
    })
    .unwrap()
}

#[test]
fn the_least_request_is_an_image() {
    let spec = ContainerSpec::check(request()).unwrap();
    assert_eq!(spec.image.to_string(), "docker.io/library/debian:12");
    assert_eq!((spec.restart, spec.shm_mb, spec.public), (RestartPolicy::No, 64, false));
}

#[test]
fn a_specification_is_kept_whole_and_its_secrets_apart() {
    let spec = full();
    let stored = spec.to_stored().unwrap();
    assert_eq!(ContainerSpec::restore(&stored), Ok(spec.clone()));
    for shown in [stored.open.clone(), format!("{spec:?}"), format!("{stored:?}")] {
        assert!(!shown.contains("hunter"), "{shown}");
    }
    assert!(stored.sealed.expose().contains("hunter2") && stored.sealed.expose().contains("hunter3"));
}

#[test]
fn what_was_kept_and_was_changed_is_refused_without_showing_a_secret() {
    let stored = full().to_stored().unwrap();
    let broken = StoredSpec {
        open: stored.open.replace("0.5", ""),
        sealed: Secret::new("{\"env\":{\"A\":[\"hunter2\"]}}"),
    };
    let error = ContainerSpec::restore(&broken).unwrap_err().to_string();
    assert!(error.starts_with("sealed") && !error.contains("hunter2"), "{error}");
    let broken = StoredSpec { open: stored.open.replace("debian:12", "Debian"), ..stored };
    assert!(ContainerSpec::restore(&broken).unwrap_err().to_string().starts_with("open"));
}

#[test]
fn each_limit_is_named_with_its_field() {
    let many =
        |count: usize| (0..count).map(|n| (format!("V{n}"), Secret::new("x"))).collect::<BTreeMap<_, _>>();
    let files =
        |count: usize| (0..count).map(|n| (format!("/f{n}"), Secret::new(""))).collect::<BTreeMap<_, _>>();
    for (wrong, text) in [
        (ContainerRequest { image: "-v".into(), ..request() }, "image begins with '-'"),
        (ContainerRequest { command: vec!["x".repeat(1 << 20)], ..request() }, "command has 1048576 bytes"),
        (ContainerRequest { args: vec![String::new(); 1001], ..request() }, "args has 1001 words"),
        (ContainerRequest { args: vec!["a\0b".into()], ..request() }, "args contains a NUL"),
        (ContainerRequest { command: vec![String::new()], ..request() }, "command begins with an empty word"),
        (ContainerRequest { env: many(10_000), ..request() }, "env has 10000 variables; at most 500"),
        (
            ContainerRequest { env: secrets(&[("A", &"x".repeat(131_072))]), ..request() },
            "env has 131073 bytes",
        ),
        (ContainerRequest { env: secrets(&[("A", "a\nB=c")]), ..request() }, "env A contains a line break"),
        (ContainerRequest { env: secrets(&[("A=B", "c")]), ..request() }, "env has names of"),
        (
            ContainerRequest { cpu_milli: Some(0), ..request() },
            "cpus is 0 and has to lie between 0.01 and 1024",
        ),
        (ContainerRequest { memory_mb: Some(4), ..request() }, "memory_mb is 4 and has to lie between 8"),
        (ContainerRequest { gpus: 65, ..request() }, "gpus is 65"),
        (ContainerRequest { shm_mb: Some(0), ..request() }, "shm_mb is 0"),
        (ContainerRequest { shm_mb: Some(300), memory_mb: Some(256), ..request() }, "shm_mb is 300"),
        (ContainerRequest { ports: vec![0], ..request() }, "ports has 0; a port lies between"),
        (ContainerRequest { ports: vec![65_536], ..request() }, "ports has 65536; a port"),
        (ContainerRequest { ports: vec![80, 443, 80], ..request() }, "ports has 80 twice"),
        (ContainerRequest { ports: (1..=17).collect(), ..request() }, "ports has 17 ports; at most 16"),
        (ContainerRequest { name: Some("A".into()), ..request() }, "name has 1 to 40"),
        (ContainerRequest { restart: Some("often".into()), ..request() }, "restart is none of"),
        (ContainerRequest { files: secrets(&[("/../etc/passwd", "x")]), ..request() }, "files has the path"),
        (
            ContainerRequest { files: secrets(&[("/a", "x"), ("/a/b", "x")]), ..request() },
            "files has /a as a file and",
        ),
        (ContainerRequest { files: files(65), ..request() }, "files has 65 files; at most 64"),
        (
            ContainerRequest { files: secrets(&[("/a", &"x".repeat((1 << 20) + 1))]), ..request() },
            "files has 1048577",
        ),
    ] {
        let error = refused(wrong);
        assert!(error.starts_with(text), "{text}: {error}");
    }
}

#[test]
fn an_unknown_field_is_refused() {
    let json = r#"{"image":"debian","privileged":true}"#;
    assert!(serde_json::from_str::<ContainerRequest>(json).unwrap_err().to_string().contains("privileged"));
}
