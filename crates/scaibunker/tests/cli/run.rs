//! `run` and `exec`: the command's input, output and exit code.

use serde_json::json;

use crate::{
    fake_commands::all_bytes,
    fake_controller::FakeController,
    program::{run, run_with_input},
};

#[tokio::test]
async fn a_run_passes_output_and_exit_code_on_and_removes_the_bunker() {
    let controller = FakeController::start().await;
    let ended = run(&controller, &["run", "--", "binary"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, "warning\n"));
    assert_eq!(ended.stdout, all_bytes());

    let ended = run(&controller, &["run", "--", "exit", "7"]).await;
    assert_eq!((ended.code, ended.stderr.as_str(), ended.text()), (7, "bye\n", ""));
    let seen = controller.seen();
    assert_eq!((seen.live(), seen.deletes.len()), (0, 2));
}

#[tokio::test]
async fn options_reach_the_server() {
    let controller = FakeController::start().await;
    let args = [
        "run",
        "--image",
        "busybox",
        "--network",
        "allowlisted",
        "--allow",
        "pypi.org",
        "--cpu",
        "0.5",
        "--memory",
        "1g",
        "--disk",
        "64",
        "--env",
        "A=1",
        "-e",
        "B=x=y",
        "--name",
        "n",
        "--label",
        "team=a",
        "--timeout",
        "2m",
        "--user",
        "root",
        "--cwd",
        "/tmp",
        "--",
        "echo",
        "-n",
    ];
    assert_eq!(run(&controller, &args).await.code, 0);
    let seen = controller.seen();
    let expected = json!({
        "image": "busybox", "network_profile": "allowlisted", "network_allowlist": ["pypi.org"],
        "cpu_millicores": 500, "memory_mb": 1024, "disk_mb": 64, "name": "n",
        "env_vars": {"A": "1", "B": "x=y"}, "label_set": {"team": "a"},
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&seen.creates[0][field], value, "{field}");
    }
    let expected = json!({
        "command": ["echo", "-n"], "user": "root", "cwd": "/tmp", "timeout_s": 120, "stream": true,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&seen.execs[0][field], value, "{field}");
    }
}

#[tokio::test]
async fn piped_input_becomes_the_commands() {
    let controller = FakeController::start().await;
    let input: Vec<u8> = all_bytes().repeat(4096);
    let ended = run_with_input(&controller, &["run", "--", "cat"], &input).await;
    assert_eq!((ended.code, ended.stdout == input), (0, true), "{}", ended.stderr);

    let too_much = vec![b'x'; (1 << 20) + 1];
    let ended = run_with_input(&controller, &["run", "--", "cat"], &too_much).await;
    assert_eq!(ended.code, 125);
    assert!(ended.stderr.contains("larger than 1048576 bytes"), "{}", ended.stderr);
    assert_eq!(controller.seen().creates.len(), 1, "no bunker is made for input that cannot go in");
}

#[tokio::test]
async fn a_command_that_took_too_long_is_124() {
    let controller = FakeController::start().await;
    let ended = run(&controller, &["run", "--timeout", "5", "--", "sleep"]).await;
    assert_eq!(ended.code, 124);
    assert!(ended.stderr.contains("after 5 s; --timeout"), "{}", ended.stderr);
    assert_eq!(controller.seen().live(), 0);
}

#[tokio::test]
async fn a_kept_bunker_stays() {
    let controller = FakeController::start().await;
    let ended = run(&controller, &["run", "--keep", "--", "echo", "hi"]).await;
    assert_eq!((ended.code, ended.text()), (0, "hi\n"));
    let seen = controller.seen();
    let id = seen.bunkers.keys().next().unwrap();
    assert!(ended.stderr.contains(id), "{}", ended.stderr);
    assert_eq!((seen.live(), seen.deletes.len()), (1, 0));
}

#[tokio::test]
async fn json_is_the_apis_answer() {
    let controller = FakeController::start().await;
    let ended = run(&controller, &["--json", "run", "--", "echo", "hi"]).await;
    let answer = ended.json();
    assert_eq!(
        (ended.code, &answer["stdout"], &answer["exit_code"]),
        (0, &json!("hi\n"), &json!(0))
    );
    assert!(answer["exec_id"].as_str().unwrap().starts_with("exe_"));

    let ended = run(&controller, &["run", "--json", "--", "exit", "3"]).await;
    assert_eq!((ended.code, &ended.json()["exit_code"]), (3, &json!(3)));
}

#[tokio::test]
async fn exec_finds_bunkers_by_id_beginning_and_name() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({"name": "web"}));
    for name in [id.as_str(), &id[..id.len() - 1], "web"] {
        let ended = run(&controller, &["exec", name, "-e", "A=b", "echo", name]).await;
        assert_eq!((ended.code, ended.text()), (0, format!("{name}\n").as_str()), "{ended:?}");
    }
    let seen = controller.seen();
    assert_eq!((seen.live(), &seen.execs[0]["env"]), (1, &json!({"A": "b"})));

    controller.add_bunker(json!({"name": "web"}));
    let ended = run(&controller, &["exec", "web", "--", "true"]).await;
    assert_eq!(ended.code, 125);
    assert!(ended.stderr.contains("more than one bunker"), "{}", ended.stderr);
}
