//! The proleptic Gregorian calendar, as days since 1970-01-01.
//!
//! The two conversions are `days_from_civil` and `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date
//! Algorithms" (2014). They hold for every year that four digits can write, before 1970 too.

/// A calendar day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// 0 to 9999
    pub year: i64,
    /// 1 to 12
    pub month: u32,
    /// 1 to 31
    pub day: u32,
}

/// Days since 1970-01-01 of a day of the calendar, negative before it. The day must exist ([`days_in_month`]).
pub fn days_from_civil(civil: Civil) -> i64 {
    let year = if civil.month <= 2 { civil.year - 1 } else { civil.year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(civil.month);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(civil.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The day of the calendar that lies `days` after 1970-01-01.
pub fn civil_from_days(days: i64) -> Civil {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil { year, month: month as u32, day: day as u32 }
}

/// How many days a month has, 0 for a month that is none.
pub fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_jiff_on_every_day_of_ten_thousand_years() {
        let mut date = jiff::civil::date(0, 1, 1);
        let mut days = days_from_civil(Civil { year: 0, month: 1, day: 1 });
        loop {
            let civil = Civil {
                year: i64::from(date.year()),
                month: date.month().unsigned_abs().into(),
                day: date.day().unsigned_abs().into(),
            };
            assert_eq!(days_from_civil(civil), days, "{date}");
            assert_eq!(civil_from_days(days), civil, "{date}");
            assert_eq!(days_in_month(civil.year, civil.month), u32::from(date.days_in_month().unsigned_abs()));
            match date.tomorrow() {
                Ok(next) => date = next,
                Err(_) => break,
            }
            days += 1;
        }
        assert_eq!(days_from_civil(Civil { year: 1970, month: 1, day: 1 }), 0);
    }
}
