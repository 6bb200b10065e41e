"""The npm package: what is in it, and its types."""

from pathlib import Path

from tests.browser.npm_package import NODE_MODULES, run

PROGRAM = """
import { JobStatusClient, type JobDetails } from "jobstatus-client";
import { configure } from "jobstatus-client/element";
import { useJob } from "jobstatus-client/react";

const client = new JobStatusClient({ url: "https://a.example", credentials: () => "x" });

export async function use(): Promise<number> {
  const one: JobDetails = await client.wait("a");
  const many: JobDetails[] = await client.wait(["a", "b"], { until: "any-done" });
  configure(client);
  const { status } = useJob("a");
  // @ts-expect-error: there is no such state
  if (one.state === "done") return 1;
  return many.length + (status?.progress ?? 0);
}
"""


def test_files(npm_package: Path) -> None:
    """The package has the three modules with their types, and nothing else."""
    installed = npm_package / "node_modules" / "jobstatus-client"
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    modules = ("client", "element", "react")
    assert files == {
        *("package.json", "README.md", "LICENSE"),
        *(f"{name}.js" for name in modules),
        *(f"types/{name}.d.ts" for name in modules),
    }


def test_types(npm_package: Path) -> None:
    """A program in TypeScript uses all modules; the types say more than `any`."""
    (npm_package / "use.ts").write_text(PROGRAM)
    options = ("--strict", "--noEmit", "--skipLibCheck", "--target", "es2022")
    modules = ("--module", "nodenext", "--moduleResolution", "nodenext")
    run(NODE_MODULES / ".bin" / "tsc", *options, *modules, "use.ts", cwd=npm_package)
