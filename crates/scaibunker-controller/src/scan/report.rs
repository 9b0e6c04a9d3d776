//! What a report of Trivy says, as far as it is kept.
//!
//! The format is that of `trivy --format json`, schema version 2.

use std::cmp::Reverse;

use scaibunker_api::image::{Finding, FindingKind, Severity, SeverityCounts};
use serde::Deserialize;

use crate::domain::scan::ScanOutcome;

/// Findings that are kept, the worst first.
const MAX_FINDINGS: usize = 1000;
/// Of a text in a finding; the image's maker may have written it.
const MAX_TEXT_CHARS: usize = 300;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    trivy: Option<Program>,
    results: Option<Vec<Section>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Program {
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Section {
    #[serde(default)]
    target: String,
    vulnerabilities: Option<Vec<Vulnerability>>,
    secrets: Option<Vec<Secret>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    severity: String,
    pkg_name: Option<String>,
    installed_version: Option<String>,
    fixed_version: Option<String>,
}

/// A secret's place and kind. The lines around it, which the report has as well, are not read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    #[serde(rename = "RuleID")]
    id: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    severity: String,
}

/// Reads a report.
pub(super) fn parse(json: &[u8]) -> Result<ScanOutcome, serde_json::Error> {
    let report: Report = serde_json::from_slice(json)?;
    let sections = report.results.unwrap_or_default();
    let mut findings: Vec<_> = sections.into_iter().flat_map(findings_of).collect();
    let mut counts = SeverityCounts::default();
    for finding in &findings {
        *match finding.severity {
            Severity::Critical => &mut counts.critical,
            Severity::High => &mut counts.high,
            Severity::Medium => &mut counts.medium,
            Severity::Low => &mut counts.low,
            Severity::Unknown => &mut counts.unknown,
        } += 1;
    }
    findings.sort_by(|a, b| (Reverse(a.severity), &a.id).cmp(&(Reverse(b.severity), &b.id)));
    let truncated = findings.len() > MAX_FINDINGS;
    findings.truncate(MAX_FINDINGS);
    let version = report.trivy.map(|program| shown(&program.version)).unwrap_or_default();
    let scanner = format!("trivy {version}").trim_end().to_owned();
    Ok(ScanOutcome { scanner, counts, findings, truncated })
}

fn findings_of(section: Section) -> Vec<Finding> {
    let target = shown(&section.target);
    let vulnerabilities = section.vulnerabilities.unwrap_or_default().into_iter().map(|found| {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty()).map(|t| shown(&t));
        Finding {
            kind: FindingKind::Vulnerability,
            severity: severity(&found.severity),
            id: shown(&found.id),
            title: shown(&found.title),
            target: target.clone(),
            package: text(found.pkg_name),
            installed_version: text(found.installed_version),
            fixed_version: text(found.fixed_version),
        }
    });
    let secrets = section.secrets.unwrap_or_default().into_iter().map(|found| Finding {
        kind: FindingKind::Secret,
        severity: severity(&found.severity),
        id: shown(&found.id),
        title: shown(&found.title),
        target: target.clone(),
        package: None,
        installed_version: None,
        fixed_version: None,
    });
    vulnerabilities.chain(secrets).collect()
}

fn severity(word: &str) -> Severity {
    match word {
        "CRITICAL" => Severity::Critical,
        "HIGH" => Severity::High,
        "MEDIUM" => Severity::Medium,
        "LOW" => Severity::Low,
        _ => Severity::Unknown,
    }
}

/// A text without what would move a terminal's cursor, and not too long.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn findings_are_counted_and_the_worst_come_first() {
        // Written by hand after Trivy 0.76's report.
        let report = json!({
            "SchemaVersion": 2,
            "Trivy": { "Version": "0.76.0" },
            "Results": [
                {
                    "Target": "image.ext4 (debian 12.5)", "Class": "os-pkgs", "Type": "debian",
                    "Vulnerabilities": [
                        { "VulnerabilityID": "CVE-2024-1", "PkgName": "openssl",
                          "InstalledVersion": "3.0.11", "FixedVersion": "3.0.17",
                          "Title": "openssl: a\u{1b}[2J title", "Severity": "HIGH" },
                        { "VulnerabilityID": "CVE-2024-2", "PkgName": "zlib1g",
                          "InstalledVersion": "1.2", "Severity": "WHATEVER" },
                    ],
                },
                {
                    "Target": "root/.aws/credentials", "Class": "secret",
                    "Secrets": [{
                        "RuleID": "aws-access-key-id", "Severity": "CRITICAL",
                        "Title": "AWS Access Key ID", "Match": "AKIA",
                        "Code": { "Lines": [{ "Content": "AKIA" }] },
                    }],
                },
                { "Target": "nothing", "Class": "lang-pkgs" },
            ],
        });
        let outcome = parse(report.to_string().as_bytes()).unwrap();
        assert_eq!(outcome.scanner, "trivy 0.76.0");
        let expected = SeverityCounts { critical: 1, high: 1, unknown: 1, ..Default::default() };
        assert_eq!(outcome.counts, expected);
        let ids: Vec<_> = outcome.findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(ids, ["aws-access-key-id", "CVE-2024-1", "CVE-2024-2"]);
        assert_eq!(outcome.findings[1].title, "openssl: a[2J title");
        assert_eq!(outcome.findings[1].fixed_version.as_deref(), Some("3.0.17"));
        assert!(!format!("{outcome:?}").contains("AKIA"), "a secret is not kept");
    }

    #[test]
    fn many_findings_are_counted_and_not_all_kept() {
        let found: Vec<_> = (0..MAX_FINDINGS + 1)
            .map(|n| json!({ "VulnerabilityID": format!("CVE-{n}"), "Severity": "LOW" }))
            .collect();
        let report = json!({ "Results": [{ "Target": "t", "Vulnerabilities": found }] });
        let outcome = parse(report.to_string().as_bytes()).unwrap();
        assert_eq!((outcome.counts.low, outcome.findings.len()), (1001, MAX_FINDINGS));
        assert!(outcome.truncated);
    }

    #[test]
    fn an_image_without_faults_has_no_results() {
        let outcome = parse(br#"{"SchemaVersion":2}"#).unwrap();
        assert_eq!((outcome.counts, outcome.findings.len()), (SeverityCounts::default(), 0));
        assert!(parse(b"").is_err());
    }
}
