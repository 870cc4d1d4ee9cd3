//! Rows with many columns, read by their place in the row: looking up each of 40 columns by its name, in each of a
//! thousand rows, costs more than all the rest of reading them.

use std::ops::Range;

/// Columns that stand side by side in a row.
pub(crate) trait Columns<'r, R: sqlx::Row>: Sized {
    /// Reads them from the next places.
    fn read(row: &'r R, places: &mut Range<usize>) -> Result<Self, sqlx::Error>;
}

/// What a LEFT JOIN may not find: nothing when the first column is NULL, which is otherwise never NULL. Stands last in
/// its row.
impl<'r, R: sqlx::Row, T: Columns<'r, R>> Columns<'r, R> for Option<T>
where
    usize: sqlx::ColumnIndex<R>,
    Option<i64>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    fn read(row: &'r R, places: &mut Range<usize>) -> Result<Self, sqlx::Error> {
        let first: Option<i64> = row.try_get(places.start)?;
        first.map(|_| T::read(row, places)).transpose()
    }
}

/// A struct of columns that reads itself from a row of `Self::columns`, on either database. Its first field may be
/// another such struct: `..name: Type`. One with a lifetime borrows texts from the row.
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        record! { @ ['r, $name] $(#[$meta])* $vis struct $name { $($fields)* } }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident<$row:lifetime> { $($fields:tt)* }) => {
        record! { @ [$row, $name<$row>] $(#[$meta])* $vis struct $name<$row> { $($fields)* } }
    };
    (
        @ [$row:lifetime, $self:ty]
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(<$borrowed:lifetime>)? {
            $(..$inner_vis:vis $inner:ident: $inner_type:ident,)?
            $($field_vis:vis $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        $vis struct $name $(<$borrowed>)? {
            $($inner_vis $inner: $inner_type,)?
            $($field_vis $field: $type,)*
        }

        impl $(<$borrowed>)? $name $(<$borrowed>)? {
            /// The columns in the order in which a row is read, of the table that the query calls `table`.
            pub(crate) fn columns(table: &str) -> String {
                let inner: [String; _] = [$($inner_type::columns(table))?];
                let own = [$(stringify!($field)),*].map(|column| format!("{table}.{column}"));
                inner.into_iter().chain(own).collect::<Vec<_>>().join(", ")
            }
        }

        impl<$row, R: sqlx::Row> crate::engine::Columns<$row, R> for $self
        where
            usize: sqlx::ColumnIndex<R>,
            $($inner_type: crate::engine::Columns<$row, R>,)?
            $($type: sqlx::Decode<$row, R::Database> + sqlx::Type<R::Database>,)*
        {
            fn read(row: &$row R, places: &mut std::ops::Range<usize>) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($inner: crate::engine::Columns::read(row, places)?,)?
                    $($field: row.try_get(places.next().unwrap_or(usize::MAX))?,)*
                })
            }
        }

        impl<$row, R: sqlx::Row> sqlx::FromRow<$row, R> for $self
        where
            Self: crate::engine::Columns<$row, R>,
        {
            fn from_row(row: &$row R) -> Result<Self, sqlx::Error> {
                crate::engine::Columns::read(row, &mut (0..row.len()))
            }
        }
    };
}

pub(crate) use record;
