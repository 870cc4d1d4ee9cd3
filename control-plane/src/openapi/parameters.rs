//! Parameters that several routes have.

use utoipa::{
    IntoParams,
    openapi::{
        Object, Required, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

/// The header `Idempotency-Key`, which [`crate::app::idempotency`] reads.
pub struct IdempotencyKey;

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut text = Object::with_type(Type::String);
        (text.min_length, text.max_length) = (Some(1), Some(255));
        let header = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "The same key with the same body gives the same reply again; printable ASCII, your own choice",
            ))
            .schema(Some(text))
            .example(Some("8e03978e-40d5-43e8-bc93-6894a57f9324".into()));
        vec![header.build()]
    }
}
