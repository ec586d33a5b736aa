"""consent-sync keeps the consent that a loyalty platform holds equal to the consent that the CRM exports."""
