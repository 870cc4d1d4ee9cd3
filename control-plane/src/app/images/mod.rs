//! Images: what a registry has, without a pull.

mod manifest;
mod reach;
pub mod registry;
pub mod views;

use crate::{App, auth::Caller, error::ApiError};
use orion_containers::{Engine, EngineError, RegistryCredentials};
use orion_domain::{LeaseId, NodeId, container::ImageName};
use orion_fleet::{PULLS_OF_USER_MAX, target_of};
use registry::{NotFound, Question};
use views::ImageTestView;

/// Seconds after which a user who tests too many images at once may ask again.
const RETRY_AFTER_S: u64 = 2;

/// What clients do with images.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    app: &'a App,
}

impl App {
    /// Gives the images.
    pub const fn images(&self) -> Images<'_> {
        Images { app: self }
    }
}

/// A question about an image, checked.
#[derive(Clone, Debug)]
pub struct ImageTest {
    /// Name of the image.
    pub image: ImageName,
    /// Platform whose size is wanted, such as `linux/arm64`.
    pub platform: Option<String>,
    /// The lease on whose node the image is looked for.
    pub rental: Option<String>,
}

/// The node of a lease, and its engine.
struct Place {
    lease: LeaseId,
    node: NodeId,
    engine: Engine,
}

impl Images<'_> {
    /// Returns what the registry has of an image. Where it does not answer this process, the engine of the lease's node
    /// asks it: that says no size.
    ///
    /// # Errors
    /// 400 for a registry that is not allowed, 404 for an unknown lease, 429 for too many questions at once.
    pub async fn test(self, who: &Caller, test: &ImageTest) -> Result<ImageTestView, ApiError> {
        let ImageTest { image, platform, rental } = test;
        let allowed = &self.app.config.image_registries;
        allowed.check(image).map_err(|why| ApiError::field("image", why))?;
        let Some(_turn) = self.app.registries.of_users.take(who.user) else {
            let text = format!("{PULLS_OF_USER_MAX} of your images are being tested; wait for one");
            return Err(ApiError::too_many(text, RETRY_AFTER_S));
        };
        let place = match rental {
            Some(which) => self.place_of(who, which).await?,
            None => None,
        };
        let credentials = self.app.fleet.registry_credentials(who.user, image.registry()).await?;
        let credentials = credentials.map_err(ApiError::internal)?;
        let question = Question {
            image,
            standing: allowed.standing(image),
            credentials: credentials.as_ref(),
            platform: platform.as_deref(),
        };
        let asked = async {
            match (self.app.registries.find(question).await, &place) {
                (Ok(remote), _) => ImageTestView::of_remote(remote),
                (Err(NotFound::NoAnswer(why)), Some(place)) => {
                    by_engine(&place.engine, image, credentials.as_ref(), why).await
                }
                (Err(why), _) => ImageTestView::without(why),
            }
        };
        let (view, on_node) = tokio::join!(asked, self.is_on_node(place.as_ref(), image));
        Ok(view.named(image, on_node?))
    }

    /// Returns the node of a lease; none where it has none.
    async fn place_of(self, who: &Caller, which: &str) -> Result<Option<Place>, ApiError> {
        let row = self.app.leases().find(who, which).await?;
        let Some(node) = row.node else { return Ok(None) };
        let target = target_of(&node).map_err(ApiError::internal)?;
        let engine = self.app.fleet.engines.of(&target);
        Ok(Some(Place { lease: row.lease.id, node: node.id, engine }))
    }

    /// Whether the image is on the node, for this user; none where nobody can say.
    async fn is_on_node(self, place: Option<&Place>, image: &ImageName) -> Result<Option<bool>, ApiError> {
        let Some(place) = place else { return Ok(None) };
        let Ok(found) = place.engine.image(image).await else { return Ok(None) };
        let images = self.app.store.images();
        let may_use = images.may_use(place.node, image, place.lease, self.app.now()).await?;
        Ok(Some(may_use && found.is_some()))
    }
}

/// Asks the registry by the engine of a node.
async fn by_engine(
    engine: &Engine,
    image: &ImageName,
    credentials: Option<&RegistryCredentials>,
    why: String,
) -> ImageTestView {
    match engine.test_image(image, credentials).await {
        Ok(found) => ImageTestView::without_size(found),
        Err(EngineError::NotFound(said) | EngineError::Denied(said)) => {
            ImageTestView::without(NotFound::Absent(said))
        }
        // The engine fails for a reason of its own: what this process saw says more.
        Err(_) => ImageTestView::without(NotFound::NoAnswer(why)),
    }
}
