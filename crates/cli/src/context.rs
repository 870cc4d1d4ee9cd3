//! What every client command starts from: which API, as whom, in which format, and the clock.

use crate::{
    client::Client,
    config::{Paths, Session},
    error::{CliError, Kind},
    output::Format,
};
use orion_domain::{Clock, SystemClock, Timestamp};
use std::path::PathBuf;

/// The API's address where nothing says otherwise: what `orion up` listens on.
const DEFAULT_API: &str = "http://127.0.0.1:8080";

/// See the module.
#[derive(Debug)]
pub struct Context {
    /// The CLI's files.
    pub paths: Paths,
    /// Format of the data on standard output.
    pub format: Format,
    /// The API's address, without a slash at its end.
    pub api: String,
    /// The session with this very API, if there is one.
    pub session: Option<Session>,
    /// Further certificate authorities to trust.
    pub api_ca: Option<PathBuf>,
    clock: SystemClock,
}

impl Context {
    /// Builds the context from the global options; what they leave open comes from the last login, then from
    /// defaults. A token in `ORION_TOKEN` stands in for a session.
    ///
    /// # Errors
    /// When there is no home directory, or the session cannot be read.
    pub fn new(api: Option<String>, api_ca: Option<PathBuf>, format: Format) -> Result<Self, CliError> {
        let paths = Paths::from_environment()?;
        let kept = paths.session()?;
        let api = api
            .or_else(|| kept.as_ref().map(|session| session.api.clone()))
            .unwrap_or_else(|| DEFAULT_API.to_owned());
        // A token goes to the API that issued it and nowhere else.
        let kept = kept.filter(|session| session.api == api);
        let api_ca = api_ca.or_else(|| kept.as_ref().and_then(|session| session.api_ca.clone()));
        let session = match std::env::var("ORION_TOKEN") {
            Ok(token) if !token.is_empty() => {
                Some(Session { api: api.clone(), user: "(ORION_TOKEN)".into(), token, api_ca: None })
            }
            Ok(_) | Err(_) => kept,
        };
        Ok(Self { paths, format, api, session, api_ca, clock: SystemClock })
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A client as the user who is logged in.
    ///
    /// # Errors
    /// [`Kind::NotLoggedIn`] without a session with this API.
    pub fn client(&self) -> Result<Client, CliError> {
        match &self.session {
            Some(session) => Client::new(&self.api, Some(session), self.api_ca.as_deref()),
            None => Err(CliError::new(Kind::NotLoggedIn, format!("not logged in at {}", self.api))
                .hint("orion login NAME (no account yet: orion signup NAME)")),
        }
    }

    /// A client as nobody.
    ///
    /// # Errors
    /// When the CA file is unusable.
    pub fn anonymous(&self) -> Result<Client, CliError> {
        Client::new(&self.api, None, self.api_ca.as_deref())
    }
}
