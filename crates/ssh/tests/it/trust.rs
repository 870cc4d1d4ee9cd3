//! Who is believed: the node's host key by us, our certificate by the node.

use std::sync::Arc;

use orion_ssh::{
    ControlCa, HostKey, Kind, Meaning, Pool, PoolConfig, Stage, scan_host_key, wall_clock_unix_s,
};

use crate::sshd::Sshd;

const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

#[tokio::test]
async fn another_host_key_is_refused_and_named_and_no_login_is_tried() {
    let sshd = Sshd::start("");
    let mut target = sshd.target();
    target.host_keys = vec![OTHER.parse().unwrap()];
    let pool = sshd.pool();
    for error in [pool.connect(&target).await.unwrap_err(), pool.fresh_handshake(&target).await.unwrap_err()]
    {
        assert_eq!(error.stage, Stage::KeyExchange);
        assert_eq!(error.kind, Kind::HostKeyMismatch { seen: sshd.host_key.fingerprint() });
        assert_eq!(error.meaning(), Meaning::WrongKey);
    }
    assert!(!sshd.log().contains("Accepted"), "{}", sshd.log());
    assert_eq!(pool.session_count(), 0);
}

#[tokio::test]
async fn a_host_key_of_another_type_is_a_mismatch_and_not_an_unknown_key() {
    let sshd = Sshd::start_with_host_key("ecdsa", "");
    let mut target = sshd.target();
    target.host_keys = vec![OTHER.parse().unwrap()];
    let error = sshd.pool().connect(&target).await.unwrap_err();
    assert_eq!(error.kind, Kind::HostKeyMismatch { seen: sshd.host_key.fingerprint() });
}

#[tokio::test]
async fn an_ecdsa_host_key_can_be_pinned() {
    let sshd = Sshd::start_with_host_key("ecdsa", "");
    assert!(sshd.host_key.to_string().starts_with("ecdsa-sha2-nistp256 "));
    sshd.pool().fresh_handshake(&sshd.target()).await.unwrap();
}

#[tokio::test]
async fn any_one_of_the_pinned_keys_is_enough() {
    let sshd = Sshd::start("");
    let mut target = sshd.target();
    target.host_keys.insert(0, OTHER.parse().unwrap());
    sshd.pool().connect(&target).await.unwrap();
}

/// A second host key comes with `HostKey`, a third is said to be one by nobody.
#[tokio::test]
async fn further_keys_are_those_that_the_server_proves_beside_the_pinned_ones() {
    let other = Sshd::start_with_host_key("ecdsa", "");
    let sshd = Sshd::start(&format!("HostKey {}", other.path().join("host_key").display()));
    let (pool, mut target) = (sshd.pool(), sshd.target());
    assert_eq!(pool.further_keys(&target).await.unwrap_err().kind, Kind::NoSession);
    pool.connect(&target).await.unwrap();
    assert_eq!(pool.further_keys(&target).await.unwrap(), std::slice::from_ref(&other.host_key));
    // The session stays when further pins come, and ends when its own is gone.
    target.host_keys.push(other.host_key.clone());
    pool.connect(&target).await.unwrap();
    assert_eq!(pool.further_keys(&target).await.unwrap(), []);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1, "{}", sshd.log());
    target.host_keys.remove(0);
    pool.connect(&target).await.unwrap();
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 2, "{}", sshd.log());
    assert_eq!(pool.further_keys(&target).await.unwrap(), std::slice::from_ref(&sshd.host_key));
}

#[tokio::test]
async fn without_a_pinned_key_nothing_is_dialled() {
    let sshd = Sshd::start("");
    let mut target = sshd.target();
    target.host_keys.clear();
    let pool = sshd.pool();
    assert_eq!(pool.connect(&target).await.unwrap_err().kind, Kind::NoPinnedKey);
    assert_eq!(pool.fresh_handshake(&target).await.unwrap_err().kind, Kind::NoPinnedKey);
    assert!(!sshd.log().contains("Connection from"), "{}", sshd.log());
}

#[tokio::test]
async fn new_pins_end_the_session_that_the_old_ones_let_in() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    pool.connect(&sshd.target()).await.unwrap();
    let mut target = sshd.target();
    target.host_keys = vec![OTHER.parse().unwrap()];
    assert_eq!(pool.connect(&target).await.unwrap_err().meaning(), Meaning::WrongKey);
    assert!(!pool.is_connected(1));
}

#[tokio::test]
async fn sshd_refuses_a_certificate_of_another_authority() {
    let sshd = Sshd::start("");
    let pool = Pool::new(PoolConfig::default(), Arc::new(ControlCa::generate()));
    let error = pool.connect(&sshd.target()).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Auth, Kind::AuthRejected));
    assert_eq!(error.meaning(), Meaning::Sick);
}

#[tokio::test]
async fn sshd_refuses_an_expired_certificate_and_one_of_the_future() {
    let sshd = Sshd::start("");
    let clocks: [fn() -> u64; 2] = [|| wall_clock_unix_s() - 3600, || wall_clock_unix_s() + 3600];
    for unix_clock in clocks {
        let pool = sshd.pool_with(PoolConfig { unix_clock, ..PoolConfig::default() });
        let error = pool.connect(&sshd.target()).await.unwrap_err();
        assert_eq!((error.stage, error.kind), (Stage::Auth, Kind::AuthRejected));
    }
    assert!(sshd.log().contains("Certificate invalid: expired"), "{}", sshd.log());
}

#[tokio::test]
async fn an_authority_that_was_stored_and_read_again_still_logs_in() {
    let sshd = Sshd::start("");
    let ca = ControlCa::from_openssh(&sshd.ca.to_openssh().unwrap()).unwrap();
    let pool = Pool::new(PoolConfig::default(), Arc::new(ca));
    pool.connect(&sshd.target()).await.unwrap();
    assert!(sshd.log().contains("orion node=1"), "the login is not named in the log:\n{}", sshd.log());
}

#[tokio::test]
async fn a_scan_sees_the_right_key_and_never_logs_in() {
    let config = PoolConfig::default();
    for key_type in ["ed25519", "ecdsa"] {
        let sshd = Sshd::start_with_host_key(key_type, "");
        let seen: HostKey = scan_host_key("127.0.0.1", sshd.port, &config).await.unwrap();
        assert_eq!(seen, sshd.host_key);
        assert!(!sshd.log().contains("Accepted") && !sshd.log().contains("Failed"), "{}", sshd.log());
    }
}

#[tokio::test]
async fn a_name_is_resolved() {
    let sshd = Sshd::start("");
    let mut target = sshd.target();
    target.host = "localhost".into();
    sshd.pool().fresh_handshake(&target).await.unwrap();
}
