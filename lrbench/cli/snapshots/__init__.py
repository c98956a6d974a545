"""`lrbench snapshots`: the snapshots in the workspace, one file per verb."""

from lrbench.cli.snapshots import add, export, listing, remove, verify
from lrbench.cli.usage import Commands

app = Commands(help="List, verify, import, export, send or remove snapshots.")
app.command("list")(listing.list_)
app.command("show")(listing.show_)
app.command("verify")(verify.verify)
app.command("add")(add.add)
app.command("export")(export.export)
app.command("push")(export.push)
app.command("remove")(remove.remove)
