//! What every row type needs: checked columns, free text and JSON.

use super::error::StoreError;
use serde::de::DeserializeOwned;

use orion_domain::Timestamp;

/// Longest free text (reasons, errors) that is kept, in characters.
const TEXT_MAX: usize = 2_000;

/// Free text, cut to what a column takes.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

/// JSON for a TEXT column.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Sql(sqlx::Error::Encode(error.into())))
}

/// Row whose columns are parsed, or reported as corrupt.
pub(crate) struct Checked {
    pub table: &'static str,
    pub id: i64,
}

impl Checked {
    pub(crate) fn corrupt(&self, detail: String) -> StoreError {
        StoreError::Corrupt { table: self.table, id: self.id, detail }
    }

    pub(crate) fn parse<T: std::str::FromStr>(&self, column: &str, text: &str) -> Result<T, StoreError>
    where
        T::Err: std::fmt::Display,
    {
        text.parse().map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &str, value: i64) -> Result<T, StoreError> {
        T::try_from(value).map_err(|_| self.corrupt(format!("{column}: {value} is out of range")))
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    pub(crate) fn word<T: Copy>(
        &self,
        column: &str,
        word: &str,
        all: &[T],
        name: fn(T) -> &'static str,
    ) -> Result<T, StoreError> {
        let known = all.iter().copied().find(|value| name(*value) == word);
        known.ok_or_else(|| self.corrupt(format!("{column}: '{word}' is no word of it")))
    }
}

pub(crate) const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// `records` as domain values; the first corrupt one is the error.
pub(crate) fn each<R, T: TryFrom<R, Error = StoreError>>(records: Vec<R>) -> Result<Vec<T>, StoreError> {
    records.into_iter().map(T::try_from).collect()
}
