//! Who the mirror says it is to its source, and that nobody else gets to read it.
use reqwest::Url;
use std::fmt;

/// The user and password of a URL, as they stand in it (percent-encoded).
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: Option<String>,
}

impl Login {
    /// Takes them out of a URL, so that whatever is said of that URL holds neither.
    pub(crate) fn take(url: &mut Url) -> Option<Self> {
        let login = Self { user: url.username().into(), password: url.password().map(Into::into) };
        // They fail for a URL without a host, which has nothing to take out.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        (!login.user.is_empty() || login.password.is_some()).then_some(login)
    }

    /// The URL to ask, from which the client makes an Authorization field; never to be shown.
    pub(super) fn put_into(&self, url: &Url) -> Url {
        let mut url = url.clone();
        let _ = url.set_username(&self.user);
        let _ = url.set_password(self.password.as_deref());
        url
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// A text in which each `//user:password@` of a URL reads `//***@`.
pub fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//") {
        // Readers of URLs take any number of slashes, leaning either way, for two.
        let more = rest[at..].find(|c| !matches!(c, '/' | '\\')).unwrap_or(rest.len() - at);
        let (before, after) = rest.split_at(at + more);
        out.push_str(before);
        // The authority ends at the first of these (RFC 3986, 3.2), and the last @ in it ends the userinfo.
        let end = after.find(['/', '?', '#', ' ', '"', '\\']).unwrap_or(after.len());
        rest = after;
        if let Some(userinfo) = after[..end].rfind('@') {
            out.push_str("***");
            rest = &after[userinfo..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_login_leaves_the_url() {
        for (url, shown) in [
            ("http://ada:s%40cret@host:81/x", "http://host:81/x"),
            ("https://ada@host/", "https://host/"),
            ("https://:secret@host/", "https://host/"),
        ] {
            let mut left: Url = url.parse().unwrap();
            let login = Login::take(&mut left).unwrap();
            assert_eq!(left.as_str(), shown);
            assert_eq!(login.put_into(&left).as_str(), url);
            assert_eq!(format!("{login:?}"), "Login(..)");
        }
        assert_eq!(Login::take(&mut "http://host/a@b".parse().unwrap()), None);
    }

    #[test]
    fn userinfo_is_taken_out_of_any_text() {
        for (text, shown) in [
            ("http://u:p@h/x", "http://***@h/x"),
            ("ftp://u:p@w@h", "ftp://***@h"),
            ("see http://u@h/, https://a:b@c?d@e", "see http://***@h/, https://***@c?d@e"),
            ("http://h/a@b", "http://h/a@b"),
            ("//u:p@h", "//***@h"),
            ("http:///u:p@h", "http:///***@h"),
            ("///u:p@h", "///***@h"),
            ("http://", "http://"),
            ("dir:/srv/a@b", "dir:/srv/a@b"),
            ("", ""),
        ] {
            assert_eq!(without_userinfo(text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_password_stays(before in "[ -~]{0,9}", user in "[a-z]{1,4}", after in "[ -~é]{0,9}") {
            let text = format!("{before}//{user}:S3CRET@{after}");
            prop_assert!(!without_userinfo(&text).contains("S3CRET"));
        }
    }
}
