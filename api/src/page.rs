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
