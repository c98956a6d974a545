"""`lrbench snapshots`: the snapshots in the workspace, one file per verb."""

from lrbench.cli.snapshots import add, delete, export, listing, verify
from lrbench.cli.usage import Commands

app = Commands(help="List, show, verify, import, export and delete snapshots.")
app.command("list")(listing.list_)
app.command("show")(listing.show_)
app.command("verify")(verify.verify)
app.command("add")(add.add)
app.command("export")(export.export)
app.command("delete")(delete.delete)
