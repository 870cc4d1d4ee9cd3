use super::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn image(text: &str) -> ImageName {
    text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

#[test]
fn a_short_name_is_completed_and_a_complete_one_shortened() {
    for (given, whole, familiar) in [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("owner/app", "docker.io/owner/app:latest", "owner/app:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("localhost/app:1", "localhost/app:1", "localhost/app:1"),
        ("10.77.0.1:5000/bb:1", "10.77.0.1:5000/bb:1", "10.77.0.1:5000/bb:1"),
        ("[fd00::1]:5000/bb", "[fd00::1]:5000/bb:latest", "[fd00::1]:5000/bb:latest"),
        (
            "ghcr.io/a/b/c_d__e-f--g:V1.0_x",
            "ghcr.io/a/b/c_d__e-f--g:V1.0_x",
            "ghcr.io/a/b/c_d__e-f--g:V1.0_x",
        ),
    ] {
        let name = image(given);
        assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (whole, familiar));
        assert_eq!(image(whole), name);
        assert_eq!(image(familiar), name, "{given}");
    }
}

#[test]
fn a_digest_stands_for_itself_and_beside_a_tag() {
    let bare = image(&format!("alpine@{DIGEST}"));
    assert_eq!((bare.tag(), bare.digest(), bare.reference()), (None, Some(DIGEST), DIGEST));
    let both = image(&format!("ghcr.io/a/b:1@{DIGEST}"));
    assert_eq!((both.tag(), both.reference()), (Some("1"), DIGEST));
    assert_eq!(both.to_string(), format!("ghcr.io/a/b:1@{DIGEST}"));
    assert_eq!(both.familiar(), format!("ghcr.io/a/b@{DIGEST}"));
}

#[test]
fn a_name_that_is_none_is_refused_with_what_to_do() {
    let long = "a/".repeat(130) + "a";
    let id = "a".repeat(64);
    let upper_digest = format!("alpine@{}", DIGEST.to_uppercase());
    for (wrong, hint) in [
        ("", "name an image"),
        ("-v", "options are fields"),
        ("--privileged", "options are fields"),
        ("alpine sh", "fields of their own"),
        ("alpine\n", "fields of their own"),
        ("sha256:3f", "id of an image"),
        ("docker.io/library/sha512:3f", "id of an image"),
        ("Alpine", "lower case"),
        ("owner/App:1", "lower case"),
        ("GHCR.io/a/b", "lower case"),
        ("https://ghcr.io/a/b", "without the scheme"),
        ("alpine:", "a tag has"),
        ("alpine:.x", "a tag has"),
        ("alpine:a:b", "parts have a-z"),
        ("alpine@sha256:12", "64 hexadecimal"),
        (&upper_digest, "64 hexadecimal"),
        ("alpine@md5:12", "64 hexadecimal"),
        ("/alpine", "parts have a-z"),
        ("a//b", "parts have a-z"),
        ("a/", "parts have a-z"),
        ("a/../b", "parts have a-z"),
        ("a._b", "parts have a-z"),
        ("a___b", "parts have a-z"),
        ("_a", "parts have a-z"),
        ("host.example:0/a", "has the registry"),
        ("host.example:70000/a", "has the registry"),
        ("-x.example/a", "options are fields"),
        ("x..example/a", "has the registry"),
        ("[fd00::zz]/a", "has the registry"),
        ("$(id)", "contains the character"),
        ("é", "contains the character"),
        (&id, "name its repository"),
        (&long, "longer than 255"),
    ] {
        let problem = wrong.parse::<ImageName>().expect_err(wrong);
        assert!(problem.contains(hint), "{wrong}: {problem}");
    }
}

#[test]
fn an_image_comes_from_an_allowed_registry_only() {
    let list = |text: &str| text.parse::<AllowedRegistries>().unwrap();
    let all = list(" ");
    let some = list("docker.io/library, *.example.org,10.77.0.1:5000, ghcr.io/owner");
    for name in ["alpine", "reg.example.org/x", "a.b.example.org/x", "10.77.0.1:5000/x/y", "ghcr.io/owner/x"]
    {
        assert!(some.allows(&image(name)) && all.allows(&image(name)), "{name}");
    }
    for name in ["owner/x", "example.org/x", "badexample.org/x", "10.77.0.1:5001/x", "ghcr.io/owner2/x"] {
        assert!(!some.allows(&image(name)) && all.allows(&image(name)), "{name}");
    }
    for wrong in ["Docker.io", "*", "*.", "http://x", "a b", "ghcr.io/../x"] {
        assert!(wrong.parse::<AllowedRegistries>().is_err(), "{wrong}");
    }
}

#[test]
fn a_refusal_names_the_registries_and_a_registry_without_tls_is_marked() {
    let list: AllowedRegistries = "docker.io,http://10.77.0.1:5000/team, *.example.org".parse().unwrap();
    let refused = list.check(&image("ghcr.io/a/b:1")).unwrap_err();
    assert_eq!(
        refused,
        "is ghcr.io/a/b:1, and images come from these registries only: docker.io, 10.77.0.1:5000/team, *.example.org"
    );
    assert_eq!(list.standing(&image("10.77.0.1:5000/team/x")), RegistryStanding::Listed { is_plain: true });
    assert_eq!(list.standing(&image("alpine")), RegistryStanding::Listed { is_plain: false });
    assert_eq!(AllowedRegistries::default().standing(&image("alpine")), RegistryStanding::Unlisted);
    assert_eq!(list.standing(&image("10.77.0.1:5000/other/x")), RegistryStanding::Refused);
}

#[test]
fn a_registry_is_a_host_that_names_of_images_can_have() {
    let host = |text: &str| text.parse::<RegistryHost>().map(|host| host.as_str().to_owned());
    assert_eq!(host("index.docker.io"), Ok("docker.io".into()));
    assert_eq!(host("registry.example:5000"), Ok("registry.example:5000".into()));
    for wrong in ["", "x", "Ghcr.io", "ghcr.io/owner", "https://ghcr.io", "ghcr.io:", "a b.c"] {
        assert!(host(wrong).is_err(), "{wrong}");
    }
}
