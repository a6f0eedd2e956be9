//! The dashboard.

/// The dashboard: one page, put together when it is compiled, which loads nothing from elsewhere.
pub const PAGE: &str = concat!(
    include_str!("../page/head.html"),
    include_str!("../page/style.css"),
    include_str!("../page/body.html"),
    include_str!("../page/base.js"),
    include_str!("../page/minutes.js"),
    include_str!("../page/view.js"),
    include_str!("../page/ask.js"),
    include_str!("../page/status.js"),
    include_str!("../page/choose.js"),
    include_str!("../page/ranking.js"),
    include_str!("../page/chart.js"),
    include_str!("../page/lines.js"),
    include_str!("../page/start.js"),
    include_str!("../page/foot.html"),
);

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use sha2::{Digest, Sha256};

    use super::PAGE;

    #[test]
    fn the_policy_admits_the_script_and_the_style_sheet_of_the_page() {
        for element in ["script", "style"] {
            let (_, rest) = PAGE.split_once(&format!("<{element}>")).unwrap();
            let (text, _) = rest.split_once(&format!("</{element}>")).unwrap();
            let admitted = format!("{element}-src 'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
            assert!(PAGE.contains(&admitted), "head.html has to say {admitted}");
        }
    }
}
