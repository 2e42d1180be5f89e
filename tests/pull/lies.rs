//! A mirror that lies, in each way there is: a clear error, and every file stays as it was.
use super::client::{Client, flipped, say, talos_mirror};
use support::{
    talos,
    upstream::{Answer, Upstream},
};

/// A client at version 3, and the mirror it follows, which has 5.
fn behind() -> (Client, Upstream) {
    let mirror = talos_mirror(5);
    let client = Client::of(&mirror.url()).holding("test.cvd", &talos("test-3.cvd"));
    (client, mirror)
}

#[track_caller]
fn refused(client: &Client, needles: &[&str]) {
    let before = client.files();
    let ran = client.pull(&[]).exits(1);
    for needle in needles {
        assert!(ran.stderr.contains(needle), "no {needle:?} in\n{ran}");
    }
    assert!(client.files() == before, "changed: {:?}\n{ran}", client.names());
}

#[test]
fn another_file_under_a_name_is_refused() {
    let wrong = [
        (
            Answer::File(flipped(talos("test-5.cvd"))),
            "is not to be trusted: MD5 of the body is not the header's",
        ),
        (Answer::File(talos("test-4.cvd")), "holds version 4, not 5"),
        (Answer::File(b"<html>".repeat(200)), "is no database"),
        (Answer::File(Vec::new()), "broke off after 0 bytes"),
    ];
    for (answer, why) in wrong {
        let mirror = talos_mirror(5);
        mirror.set("/test-5.cvd", answer);
        refused(&Client::of(&mirror.url()), &["test-5.cvd", why]);
    }
    // The header is the genuine one each time; what comes after it is not.
    for (whole, why) in [
        (Answer::File(flipped(talos("test-5.cvd"))), "MD5 of the body"),
        (Answer::File(talos("test-4.cvd")), "named version 5"),
        (Answer::Announced(9818, talos("test-5.cvd")[..4000].to_vec()), "broke off after"),
        (Answer::File(talos("test-5.cvd")[..4000].to_vec()), "MD5 of the body"),
        (Answer::Stalling(talos("test-5.cvd")), "nothing came for 2 s"),
        (Answer::Dripping(talos("test-5.cvd")), "test-5.cvd: too slow: "),
        (Answer::Endless(vec![b'x'; 1 << 20]), "has more than"),
    ] {
        let mirror = talos_mirror(5);
        let genuine = Answer::File(talos("test-5.cvd"));
        mirror.set("/test-5.cvd", Answer::Split(Box::new(genuine), Box::new(whole)));
        refused(&Client::of(&mirror.url()), &["test-5.cvd", why]);
    }
}

#[test]
fn false_patches_and_a_false_file_leave_what_is_held() {
    let (client, mirror) = behind();
    mirror.file("test-4.cdiff", flipped(talos("test-4.cdiff")));
    let whole = Answer::File(flipped(talos("test-5.cvd")));
    mirror.set("/test-5.cvd", Answer::Split(Box::new(Answer::File(talos("test-5.cvd"))), Box::new(whole)));
    refused(&client, &["test-4.cdiff", "test-5.cvd is not to be trusted"]);
    // A genuine header of another version: the patches do not lead to it.
    mirror.set("/test-5.cvd", Answer::File(talos("test-4.cvd")));
    refused(&client, &["holds version 4, not 5"]);
}

#[test]
fn a_header_that_nobody_signed_is_refused_before_anything_else_is_fetched() {
    let (client, mirror) = behind();
    let mut forged = talos("test-5.cvd");
    let header = String::from_utf8(forged[..512].to_vec()).unwrap();
    let md5 = header.split(':').nth(5).unwrap().to_owned();
    forged[..512].copy_from_slice(header.replace(&md5, &"0".repeat(32)).as_bytes());
    mirror.file("test-5.cvd", forged);
    refused(&client, &["test-5.cvd is not to be trusted: signature in the header"]);
    assert_eq!(mirror.targets(), ["/dns.txt", "/test-5.cvd"]);
}

#[test]
fn a_mirror_that_goes_back_is_reported_and_followed_only_when_told_to() {
    let mirror = talos_mirror(5);
    let client = Client::of(&mirror.url());
    client.pull(&[]).exits(0);
    say(&mirror, 3);
    refused(&client, &["test: 5 is held and the mirror has 3", "--allow-older"]);
    client.pull(&["--allow-older"]).exits(0).says(["test: 5 -> 3 installed as CVD"]);
    assert_eq!(client.read("test.cvd"), talos("test-3.cvd"));

    // Of a CLD the lower version takes the place, so that libclamav never finds neither.
    say(&mirror, 5);
    client.pull(&["--as=cld"]).exits(0);
    assert_eq!(client.names(), ["test.cld"]);
    say(&mirror, 4);
    client.pull(&["--allow-older", "--as=cvd"]).exits(0).says(["test: 5 -> 4 installed as CLD"]);
    assert_eq!(client.names(), ["test.cld"]);
    client.verifies("test.cld");
}

#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let elsewhere = talos_mirror(5);
    let (client, mirror) = behind();
    for name in ["dns.txt", "test-5.cvd", "test-4.cdiff"] {
        let honest = talos_mirror(5);
        let client_ = Client::of(&honest.url()).holding("test.cvd", &talos("test-3.cvd"));
        honest.set(&format!("/{name}"), Answer::Redirect(format!("{}/{name}", elsewhere.url())));
        refused(&client_, &[name, "which is not this mirror: not followed"]);
    }
    // Within the mirror it is.
    mirror.set("/test-5.cvd", Answer::Redirect("/else/test-5.cvd".into()));
    mirror.file("else/test-5.cvd", talos("test-5.cvd"));
    client.pull(&[]).exits(0).says(["3 -> 5 installed as CVD"]);
    mirror.set("/dns.txt", Answer::Redirect("/dns.txt".into()));
    refused(&client, &["dns.txt"]);
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn a_mirror_that_does_not_answer_is_named() {
    let (client, mirror) = behind();
    for (answer, why) in [
        (Answer::Hangup, "dns.txt: "),
        (Answer::Silence, "dns.txt: nothing came for 2 s"),
        (Answer::Status(500, String::new(), Vec::new()), "dns.txt: the answer is 500"),
        (Answer::Endless(b"x".repeat(1000)), "dns.txt has more than 65536 bytes"),
    ] {
        mirror.set("/dns.txt", answer);
        refused(&client, &[&mirror.url(), why]);
    }
    mirror.file("dns.txt", b"<html>welcome</html>".to_vec());
    mirror.file("index.json", b"<html>welcome</html>".to_vec());
    refused(&client, &["index.json: expected value"]);
    mirror.file("index.json", br#"{"databases": {}}"#.to_vec());
    refused(&client, &["test: the mirror does not have it"]);
    let nobody = Client::of("http://127.0.0.1:1").holding("test.cvd", &talos("test-3.cvd"));
    refused(&nobody, &["http://127.0.0.1:1/dns.txt", "refused"]);
}

#[test]
fn a_password_in_the_mirrors_url_is_never_shown() {
    let mirror = talos_mirror(5);
    let url = mirror.url().replace("http://", "http://ada:S3CRET@");
    let client = Client::of(&url);
    client.pull(&[]).exits(0);
    assert!(mirror.asked().iter().all(|asked| asked.logins == ["Basic YWRhOlMzQ1JFVA=="]));
    mirror.set("/dns.txt", Answer::Hangup);
    client.pull(&[]).exits(1).never_says("S3CRET");
    client.pull(&["--as=zip"]).exits(2).never_says("S3CRET");
}
