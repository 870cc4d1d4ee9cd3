//! Password hashing: argon2id for API accounts, sha512-crypt for node logins.

use argon2::{
    Algorithm, Argon2, Block, Version,
    password_hash::{
        self,
        phc::{Output, ParamsString, PasswordHash, Salt},
    },
};
use orion_domain::Secret;
use rand::RngExt;
use sha_crypt::{Params, ShaCrypt};

/// Blocks (of 1 KiB) that are asked for, though fewer are used: more than the largest threshold of malloc(3),
/// 32 MiB, so that the memory is mapped for this hash alone and given back after it. Otherwise an idle control
/// plane keeps it: measured 82 MiB against 23 MiB.
const BLOCKS_RESERVED: usize = 33 * 1024;

fn argon2id(
    password: &Secret,
    salt: Salt,
    version: Version,
    params: argon2::Params,
) -> Result<PasswordHash, password_hash::Error> {
    let mut blocks: Vec<Block> = Vec::with_capacity(BLOCKS_RESERVED.max(params.block_count()));
    blocks.resize(params.block_count(), Block::default());
    let mut output = [0; argon2::Params::DEFAULT_OUTPUT_LEN];
    let shown = ParamsString::try_from(&params)?;
    Argon2::new(Algorithm::Argon2id, version, params).hash_password_into_with_memory(
        password.expose().as_bytes(),
        &salt,
        &mut output,
        &mut blocks,
    )?;
    Ok(PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(version.into()),
        params: shown,
        salt: Some(salt),
        hash: Some(Output::new(&output)?),
    })
}

/// Hashes an API account's password with argon2id and its recommended parameters (19 MiB, 2 passes).
///
/// Takes some 20 ms of CPU: call it on a blocking thread.
pub fn hash_login(password: &Secret) -> Result<String, String> {
    argon2id(password, Salt::generate(), Version::default(), argon2::Params::default())
        .map(|hash| hash.to_string())
        .map_err(|error| format!("argon2: {error}"))
}

/// Whether `password` belongs to `hash`. Takes as long for a wrong one as for a right one.
pub fn verify_login(password: &Secret, hash: &str) -> bool {
    let matches = || -> Option<bool> {
        let known = PasswordHash::new(hash).ok()?;
        let version = Version::try_from(known.version?).ok()?;
        let params = argon2::Params::try_from(&known).ok()?;
        let computed = argon2id(password, known.salt?, version, params).ok()?;
        // Comparing outputs takes the same time whatever they are.
        Some(known.algorithm == computed.algorithm && known.hash.is_some() && known.hash == computed.hash)
    };
    matches().unwrap_or(false)
}

/// Rounds of sha512-crypt for a password that a user chose; about 20 ms.
const CHOSEN_ROUNDS: u32 = 100_000;
/// Rounds for a generated password of 119 bits: a slow hash would protect nothing more.
const GENERATED_ROUNDS: u32 = 5_000;

/// Source of a node password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Output of [`generate_ssh_password`].
    Generated,
    /// Choice of a user.
    Chosen,
}

/// A new node password: 20 letters and digits without the ones that look alike (about 117 bits).
pub fn generate_ssh_password() -> Secret {
    const ALPHABET: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut rng = rand::rng();
    let text: String = (0..20).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
    Secret::new(text)
}

/// The crypt(3) hash (`$6$`) that a node needs. sha512-crypt because glibc, musl and BusyBox all know it.
pub fn crypt_for_node(password: &Secret, origin: Origin) -> Result<Secret, String> {
    use sha_crypt::password_hash::CustomizedPasswordHasher;
    let rounds = match origin {
        Origin::Generated => GENERATED_ROUNDS,
        Origin::Chosen => CHOSEN_ROUNDS,
    };
    // Twelve bytes are the sixteen characters of salt that crypt(3) reads.
    let salt: [u8; 12] = rand::random();
    let params = Params::new(rounds).map_err(|error| format!("sha-crypt: {error}"))?;
    ShaCrypt::SHA512
        .hash_password_customized(password.expose().as_bytes(), &salt, None, None, params)
        .map(|hash| Secret::new(hash.to_string()))
        .map_err(|error| format!("sha-crypt: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_password_verifies_and_another_does_not() {
        let hash = hash_login(&Secret::new("correct horse")).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_login(&Secret::new("correct horse"), &hash));
        assert!(!verify_login(&Secret::new("wrong horse"), &hash));
        assert!(!verify_login(&Secret::new("correct horse"), "garbage"));
        let theirs = argon2::PasswordVerifier::verify_password(
            &Argon2::default(),
            b"correct horse",
            &PasswordHash::new(&hash).unwrap(),
        );
        assert!(theirs.is_ok(), "the library itself takes our hash");
    }

    #[test]
    fn a_node_hash_is_sha512_crypt_with_sixteen_characters_of_salt() {
        let hash = crypt_for_node(&generate_ssh_password(), Origin::Generated).unwrap();
        let fields: Vec<&str> = hash.expose().split('$').collect();
        assert_eq!(fields[1], "6", "{}", hash.expose());
        let salt = if fields[2].starts_with("rounds=") { fields[3] } else { fields[2] };
        assert_eq!(salt.len(), 16);
        let other = crypt_for_node(&Secret::new("x"), Origin::Chosen).unwrap();
        assert!(other.expose().starts_with("$6$rounds=100000$"), "{}", other.expose());
    }

    #[test]
    fn generated_passwords_differ_and_are_easy_to_type() {
        let (one, two) = (generate_ssh_password(), generate_ssh_password());
        assert_ne!(one, two);
        assert!(one.expose().len() == 20 && one.expose().chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
