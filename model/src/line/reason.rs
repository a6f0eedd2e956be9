//! Why a line is no click.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal),* $(,)?) => {
        /// Why a line is not counted as a click. The list is closed: metrics and stored figures go by these names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum RejectReason { $($(#[$doc])* $name = $number),* }

        impl RejectReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in metrics, Parquet and the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The reason with this number, as it stands in records.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Nothing but white space.
    Empty = 0 "empty",
    /// Longer than [`MAX_LINE_BYTES`](super::MAX_LINE_BYTES).
    TooLong = 1 "too_long",
    /// Not UTF-8.
    NotUtf8 = 2 "not_utf8",
    /// Holds a control character (a NUL, say).
    ControlCharacter = 3 "control_character",
    /// Begins neither with `[AdClickEvent]` nor with `{`.
    UnknownPrefix = 4 "unknown_prefix",
    /// A field is not there, or is empty.
    MissingField = 5 "missing_field",
    /// A text line has more than five fields.
    ExtraField = 6 "extra_field",
    /// Not a time, or one that the calendar does not have.
    BadTimestamp = 7 "bad_timestamp",
    /// Not an IPv4 or IPv6 address.
    BadIp = 8 "bad_ip",
    /// An ad, user, event or country with more characters than allowed.
    FieldTooLong = 9 "field_too_long",
    /// Not a JSON object.
    BrokenJson = 10 "broken_json",
    /// A member of the JSON object is there twice, or is not a string.
    WrongJsonType = 11 "wrong_json_type",
    /// The click lies further ahead of its arrival than `max_clock_skew`: a wrong or malicious clock.
    WrongClock = 12 "wrong_clock",
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
