//! The image of a container: whether it is on the node, whether the container's user may have it, and its pull.
//!
//! An image that a registry gives to some users only may lie on a node where one of them pulled it. Another user of that
//! node gets it when the registry gives it to that user, too.

use crate::{Fleet, engine_words::with_source, metrics::PullResult, pulls::PULLS_OF_USER_MAX};
use orion_containers::{Engine, EngineError, EngineMeaning, RegistryCredentials};
use orion_domain::{
    NodeId, UserId,
    container::{ContainerPhase, ImageName},
};
use orion_store::{ContainerRow, Pulled, StoreError};
use std::time::Duration;
use tokio::time::Instant;

/// Shortest time between two writes of a pull's progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Longest pull of an image.
const PULL_MAX: Duration = Duration::from_secs(30 * 60);

/// Outcome of the look for a container's image.
pub(crate) enum Image {
    /// It is on the node, and the user may have it.
    Present,
    /// It cannot be had, for the reason.
    Refused(String),
    /// The user has as many pulls as go on at once.
    Waits,
    /// The node or its engine does not answer now.
    Later(String),
}

/// What the sealed password of a user's login at a registry is bound to.
pub fn login_context(user: UserId, registry: &str) -> String {
    format!("{user} {registry}")
}

impl Fleet {
    /// Returns the credentials of a user for a registry, opened; none where the user gave none. The inner error is for
    /// people.
    ///
    /// # Errors
    /// The database's.
    pub async fn registry_credentials(
        &self,
        user: UserId,
        registry: &str,
    ) -> Result<Result<Option<RegistryCredentials>, String>, StoreError> {
        let Some(login) = self.store.images().login(user, registry).await? else { return Ok(Ok(None)) };
        let opened = (self.open_login)(&login_context(user, registry), &login.password_sealed);
        Ok(opened.map(|password| Some(RegistryCredentials { username: login.username, password })))
    }

    /// Sees to it that the image of a container is on its node, and that its user may have it.
    pub(crate) async fn image_for(
        &self,
        row: &ContainerRow,
        node: NodeId,
        user: UserId,
    ) -> Result<Image, StoreError> {
        let spec = match self.spec_of(row) {
            Ok(spec) => spec,
            Err(why) => return Ok(Image::Refused(why)),
        };
        let engine = match self.engine_of(node).await? {
            Ok(engine) => engine,
            Err(why) => return Ok(Image::Later(why)),
        };
        let image = &spec.image;
        let may_use = self.store.images().may_use(node, image, row.lease, self.now()).await?;
        let was_there = match engine.image(image).await {
            Ok(Some(_)) if may_use => return Ok(Image::Present),
            Ok(found) => found.is_some(),
            Err(error) => return Ok(without(row, image, &error)),
        };
        let pulls_for = self.now().since(row.since);
        if row.phase == ContainerPhase::Pulling && pulls_for >= PULL_MAX {
            let limit = PULL_MAX.as_secs() / 60;
            return Ok(Image::Refused(format!(
                "the image {image}: its pull took longer than {limit} minutes"
            )));
        }
        let Some(_place) = self.pulls.take(user) else {
            let step = format!("waits: {PULLS_OF_USER_MAX} of your images are being pulled");
            let waits = Pulled { step, ..Pulled::default() };
            self.store.containers().pulling((row.id, row.incarnation), &waits, self.now()).await?;
            return Ok(Image::Waits);
        };
        let images = self.store.images();
        Ok(match self.obtain(&engine, row, (node, user), image).await? {
            Ok(()) => {
                // What was there before is not Orion's to remove.
                if !was_there {
                    images.pulled(node, image, self.now()).await?;
                }
                Image::Present
            }
            Err(error) => {
                if error.meaning() == EngineMeaning::NoSpace {
                    images.look_at_disk_soon(node).await?;
                }
                without(row, image, &error)
            }
        })
    }

    /// Pulls an image with the rights of a user.
    async fn obtain(
        &self,
        engine: &Engine,
        row: &ContainerRow,
        (node, user): (NodeId, UserId),
        image: &ImageName,
    ) -> Result<Result<(), EngineError>, StoreError> {
        let credentials = match self.registry_credentials(user, image.registry()).await? {
            Ok(credentials) => credentials,
            Err(why) => return Ok(Err(EngineError::Denied(format!("your login at its registry: {why}")))),
        };
        let images = self.store.images();
        let mut is_private = images.is_private(image).await?;
        // Whatever keeps the registry from saying that everybody may have it: the login may be what it is given for.
        let is_shut = !is_private && credentials.is_some() && engine.test_image(image, None).await.is_err();
        // A pull of what is there already need not ask the registry.
        if (is_private || is_shut)
            && let Err(error) = engine.test_image(image, credentials.as_ref()).await
        {
            return Ok(Err(error));
        }
        if is_shut {
            // Before the pull: from then on it lies on the node. Only a login that sees it makes it private.
            images.make_private(image, self.now()).await?;
            is_private = true;
        } else if is_private && credentials.is_none() {
            images.make_public(image).await?;
            is_private = false;
        }
        let began = Instant::now();
        let pulled = self.pull(engine, row, image, credentials.as_ref()).await?;
        self.metrics.image_pulled(result_of(&pulled), began.elapsed());
        if let Err(error) = pulled {
            return Ok(Err(error));
        }
        if is_private {
            images.show_right(node, image, user, self.now()).await?;
        }
        Ok(Ok(()))
    }

    /// Pulls an image, and writes how far it has come; gives up when the container is not wanted any more.
    async fn pull(
        &self,
        engine: &Engine,
        row: &ContainerRow,
        image: &ImageName,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Result<(), EngineError>, StoreError> {
        let of = (row.id, row.incarnation);
        let mut pulled = Pulled { step: "pulling the image".into(), ..Pulled::default() };
        self.store.containers().pulling(of, &pulled, self.now()).await?;
        let mut pull = match engine.pull(image, credentials).await {
            Ok(pull) => pull,
            Err(error) => return Ok(Err(error)),
        };
        let (began, mut written) = (Instant::now(), Instant::now());
        loop {
            // A registry that says nothing holds up nobody who does not want the container any more.
            let progress = match tokio::time::timeout(PROGRESS_EVERY, pull.next()).await {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(Err(error))) => return Ok(Err(error)),
                Ok(Some(Ok(progress))) => Some(progress),
                Err(_) => None,
            };
            if began.elapsed() >= PULL_MAX {
                let limit = PULL_MAX.as_secs() / 60;
                return Ok(Err(EngineError::Failed(format!("its pull took longer than {limit} minutes"))));
            }
            if written.elapsed() < PROGRESS_EVERY {
                continue;
            }
            written = Instant::now();
            if let Some(progress) = progress {
                pulled.step =
                    format!("pulling the image: {} of {} layers", progress.layers_done, progress.layers);
                pulled.done = progress.bytes;
                pulled.total = (progress.bytes_total > 0).then_some(progress.bytes_total);
            }
            if !self.store.containers().pulling(of, &pulled, self.now()).await? {
                return Ok(Err(EngineError::Local("the container is not wanted any more".into())));
            }
        }
    }
}

fn result_of(pulled: &Result<(), EngineError>) -> PullResult {
    match pulled.as_ref().map_err(EngineError::meaning) {
        Ok(()) => PullResult::Done,
        Err(EngineMeaning::Denied | EngineMeaning::NotFound | EngineMeaning::Invalid) => PullResult::Refused,
        Err(
            EngineMeaning::NodeUnreached
            | EngineMeaning::EngineDown
            | EngineMeaning::Unusable
            | EngineMeaning::Conflict
            | EngineMeaning::NoSpace
            | EngineMeaning::Failed
            | EngineMeaning::Nothing,
        ) => PullResult::Failed,
    }
}

/// What an error means for a container whose image is wanted.
fn without(row: &ContainerRow, image: &ImageName, error: &EngineError) -> Image {
    let said = with_source(error);
    match error.meaning() {
        EngineMeaning::NodeUnreached | EngineMeaning::EngineDown | EngineMeaning::Nothing => {
            Image::Later(said)
        }
        // It ran before its lease moved: a registry that fails now is no reason to give it up.
        EngineMeaning::NoSpace | EngineMeaning::Failed if row.incarnation > 1 => Image::Later(said),
        EngineMeaning::Unusable
        | EngineMeaning::NotFound
        | EngineMeaning::Conflict
        | EngineMeaning::Invalid
        | EngineMeaning::Denied
        | EngineMeaning::NoSpace
        | EngineMeaning::Failed => Image::Refused(format!("the image {image}: {said}")),
    }
}
