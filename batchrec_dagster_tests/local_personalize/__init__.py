"""The embedded Personalize, driven as any program drives Amazon Personalize: through boto3."""
