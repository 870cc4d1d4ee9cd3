//! `/api/images`: images in their registries.

use super::Query;
use crate::{
    App,
    app::images::{ImageTest, views::ImageTestView},
    auth::Caller,
    error::ApiError,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

/// Longest name of a platform.
const PLATFORM_CHARS_MAX: usize = 64;

/// The image that is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ImageTestQuery {
    /// Name of the image, such as `debian:12`.
    #[param(min_length = 1, max_length = 512, example = "registry.example:5000/team/app:1")]
    image: String,
    /// Platform whose size is wanted; `linux/amd64` if left out and there is one.
    #[param(max_length = 64, example = "linux/amd64")]
    platform: Option<String>,
    /// A lease of yours: whether the image is on its node.
    #[param(example = "17")]
    rental: Option<String>,
}

impl ImageTestQuery {
    fn check(self) -> Result<ImageTest, ApiError> {
        let image = self.image.parse().map_err(|why: String| ApiError::field("image", why))?;
        let is_fine = |text: &String| {
            let is_known = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            text.len() <= PLATFORM_CHARS_MAX && text.contains('/') && text.chars().all(is_known)
        };
        if !self.platform.as_ref().is_none_or(is_fine) {
            return Err(ApiError::field(
                "platform",
                "must be an operating system and an architecture: linux/amd64",
            ));
        }
        Ok(ImageTest { image, platform: self.platform, rental: self.rental })
    }
}

/// Test an image
///
/// Asks the registry, and pulls nothing: whether there is such an image, for what platforms, and how large. An image that is
/// not there is status 200 with `exists: false`.
#[utoipa::path(
    get, path = "/api/images/test", operation_id = "testImage", tag = "containers",
    params(ImageTestQuery),
    responses(
        (status = 200, description = "What the registry says", body = ImageTestView),
        (status = 404, description = "You have no such lease"),
    )
)]
pub async fn test(
    State(app): State<App>,
    who: Caller,
    Query(query): Query<ImageTestQuery>,
) -> Result<Json<ImageTestView>, ApiError> {
    Ok(Json(app.images().test(&who, &query.check()?).await?))
}
