"""What is deployed: CloudFormation generated from the sources, and the migrations of the ledger."""
